"""Every picture is drawn, in every theme and form, of stores of every kind."""

from __future__ import annotations

import os
import re
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from mosaic_collect import TrajectoryDataset, TrajectoryWriter, store_findings, store_statistics
from mosaic_collect.commands.look import run_plot
from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import (
    DARK,
    LIGHT,
    THEMES,
    Palette,
    default_style,
    inline_svg,
    new_figure,
    save,
)
from mosaic_collect.look.pictures import Pictures
from mosaic_collect.store.schema import Field, Schema
from tests import helpers
from tests.export import stores
from tests.look.planted import ROBOT, SMALL, Size, put, record, record_all
from tests.ranks import MOVING, RAGGED, record_ranks

ALL = ["timeline", "lengths", "motions", "environments", "actions", "sigma"]
ALL += ["bands-observations", "bands-student_observations", "trajectory", "pace"]


def pictures(dataset: TrajectoryDataset, **options: object) -> Pictures:
    return Pictures(dataset, partial(store_statistics, dataset), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("theme", THEMES)
def test_all_of_a_rich_store(dataset: TrajectoryDataset, tmp_path: object, theme: str) -> None:
    drawer = pictures(dataset, palette=THEMES[theme])
    assert list(drawer.names) == ALL
    for name in drawer.names:
        path = os.path.join(str(tmp_path), f"{name}.png")
        save(drawer.draw(name), path)
        assert os.path.getsize(path) > 5000


def test_the_help_of_plot_names_every_chart() -> None:
    names = {re.sub("^bands-.*", "bands-FIELD", name) for name in [*ALL, "images-FIELD"]}
    listed = re.search(r"Charts to draw: (.*?) \(", " ".join(str(run_plot.__doc__).split()))
    assert listed is not None
    assert {*listed[1].split(", ")} == names


def draw_all(drawer: Pictures) -> None:
    """Without a word of NumPy's or matplotlib's: warnings are errors here."""
    for name in drawer.names:
        assert inline_svg(drawer.draw(name), "title", name)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (0, {}),
        (1, {"num_envs": 1}),
        (5, {"masks": lambda step: np.zeros(4, bool)}),
        (9, {"ends": {3: [0]}, "complete": False}),
        (9, {"edit": lambda step, rows: [value.fill(np.nan) for value in rows.values()]}),
    ],
    ids=["no step", "one environment", "nothing valid", "not complete", "nothing finite"],
)
def test_of_poor_stores(store: str, steps: int, options: dict[str, Any]) -> None:
    stores.write(store, steps, **options)
    draw_all(pictures(TrajectoryDataset(store)))
    kinds = {finding.kind for finding in store_findings(store)}
    assert ("nonfinite" in kinds) == ("edit" in options)


def test_of_a_store_that_is_being_written(store: str) -> None:
    with TrajectoryWriter(store, helpers.SMALL, 3, commit_seconds=None) as writer:
        helpers.add(writer, 0, 1)
        writer.commit()
        dataset = TrajectoryDataset(store)
        draw_all(pictures(dataset))
        assert store_statistics(dataset).num_read == 6


def test_of_several_ranks(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert", RAGGED, schema=MOVING.with_ends())
    drawer = pictures(TrajectoryDataset(folder))
    assert {"timeline", "lengths", "trajectory"} <= {*drawer.names}
    draw_all(drawer)


def test_long_lengths_get_a_logarithmic_axis(store: str) -> None:
    with helpers.open_writer(store, 2, block_steps=50) as writer:
        for step in range(300):
            helpers.add(writer, step)
            writer.end_trajectories([0] if step < 200 else [0, 1])
    figure = pictures(TrajectoryDataset(store)).draw("lengths")
    assert figure.axes[0].get_xscale() == "log"


def test_a_chosen_trajectory(dataset: TrajectoryDataset) -> None:
    assert pictures(dataset, trajectory=3).names["trajectory"].startswith("Trajectory 3,")
    with pytest.raises(InputError, match="trajectory 999"):
        pictures(dataset, trajectory=999)
    with pytest.raises(InputError, match=f"picture 'x': this store has {', '.join(ALL)}"):
        pictures(dataset).draw("x")


def test_inline_svg(dataset: TrajectoryDataset) -> None:
    found = [inline_svg(pictures(dataset).draw(name), 'a "<title>"', name) for name in ALL]
    for svg in found:
        assert svg.startswith('<svg role="img" aria-label="a &quot;&lt;title&gt;&quot;"')
        assert not re.findall(r"#[0-9a-f]{6}\b", svg), "a colour that no theme changes"
        assert "vel<b>" not in svg
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in found]
    for one, other in combinations(ids, 2):
        assert not set(one) & set(other), "two pictures of a page share an id"
    for used, there in (
        (re.findall(r"url\(#([^)]+)\)", s), i) for s, i in zip(found, ids, strict=True)
    ):
        assert set(used) <= set(there)


def test_what_is_to_be_read_is_not_rounded() -> None:
    """Sigmas of 0.002 had ticks at 0.00, 0.00 and 0.00."""
    figure = new_figure(3, 2)
    axes = figure.add_subplot()
    axes.set_yticks([0.0005, 0.0015], ["0.0005", "0.0015"])
    svg = inline_svg(figure, "ticks", "ticks")
    assert re.findall(r"<text[^>]*>(0\.00[^<]*)<", svg) == ["0.0005", "0.0015"]
    assert not re.findall(r"<[^>]*\d\.\d{3,}[^>]*>", svg)


def test_the_key_and_the_title_tell_of_what_is_there(
    dataset: TrajectoryDataset, tmp_path: object
) -> None:
    plain = helpers.record(f"{tmp_path}/plain.zarr", 3)
    found = [pictures(data).draw("trajectory") for data in (dataset, plain)]
    keys = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in found[0].axes[:3]]
    assert keys == [["0", "1", "mean"], ["0", "1", "student's newest frame"], ["0", "1", "2"]]
    assert [figure.legends for figure in found] == [[], []]
    title = "trajectory 0: environment 0, from step 0, 3 steps, without an end"
    assert found[1].get_suptitle() == title
    masked = pictures(dataset, trajectory=int(dataset.trajectories.columns["id"][-1]))
    assert "not valid" in [t.get_text() for t in masked.draw("trajectory").legends[0].get_texts()]


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_colours_are_seen(palette: Palette) -> None:
    assert contrast(palette.ink, palette.paper) > 12
    for colour in (palette.ended, palette.failed, palette.open, *palette.lines):
        assert contrast(colour, palette.paper) >= 3
    # In print or to an eye without colours: failures differ from everything around them.
    for colour in (palette.ended2, palette.interrupted, palette.invalid):
        assert contrast(palette.failed, colour) >= 1.5
    assert contrast(palette.ended, palette.ended2) >= 1.5
    colours = list(vars(palette).values())
    assert len(set(colours)) == len(colours)


def test_long_curves_are_drawn_by_few_points_with_all_peaks_and_gaps() -> None:
    values = np.sin(np.arange(100_001) / 500) + np.random.default_rng(0).normal(0, 0.1, 100_001)
    values[[77_777, 12]] = 5, -5
    values[50_000:52_000] = np.nan
    values[60_001:60_003] = 4, np.inf
    with default_style():
        figure = new_figure(4, 2)
        axes = figure.add_subplot()
        axes.plot(values, color="#123456")
    (curve,) = re.findall(r'<path d="([^"]*)"[^>]*#123456', inline_svg(figure, "", "long"))
    assert curve.count("M") == 3
    assert curve.count("L") < 2500
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", curve), float)
    for step in (77_777, 12, 60_001):
        x, y = axes.transData.transform((step, values[step])) * 72 / figure.dpi
        drawn = np.hypot(points[:, 0] - x, 72 * 2 - points[:, 1] - y)
        assert drawn.min() < 0.5


class TestAnySchema:
    """A store without MOSAIC's field names has every picture that its fields allow."""

    @pytest.mark.parametrize(
        "fields",
        [
            [Field(name="obs", dim=4), Field(name="action", dim=2)],
            [Field(name="rgb", dim=(8, 8, 3), dtype="uint8")],
            [Field(name="reward"), Field(name="ok", dtype="bool")],
        ],
    )
    def test_every_picture(self, store: str, fields: list[Field]) -> None:
        dataset = helpers.record(store, 9, schema=Schema(fields))
        drawer = pictures(dataset)
        assert {"timeline", "lengths", "trajectory"} <= {*drawer.names}
        for field in fields:
            kind = "images-" if field.has_axes else "bands-" if field.name == "obs" else ""
            name = "actions" if field.name == "action" else f"{kind}{field.name}"
            assert (name in drawer.names) == bool(field.row_shape)
        draw_all(drawer)

    def test_curves_are_those_of_its_fields(self, store: str) -> None:
        schema = Schema([Field(name="obs", dim=4), Field(name="action", dim=2)])
        axes = pictures(helpers.record(store, 9, schema=schema)).draw("trajectory").axes
        keys = [[t.get_text() for t in a.get_legend().get_texts()] for a in axes]
        titles = [a.get_title(loc="left") for a in axes]
        assert dict(zip(titles, keys, strict=True)) == {
            "action": ["0", "1"],
            "obs": ["0", "1", "2"],
        }


def test_a_contact_sheet_is_of_the_images(store: str) -> None:
    fields = [Field(name="rgb", dim=(8, 6, 3), dtype="uint8"), Field(name="depth", dim=(4, 5))]
    dataset = helpers.record(store, 30, schema=Schema(fields))
    for name in ("rgb", "depth"):
        figure = pictures(dataset).draw(f"images-{name}")
        assert len(figure.axes) == 12
        for axes in figure.axes:
            step, env = map(int, re.findall(r"\d+", axes.get_title()))
            want, (image,) = dataset[name][step, env].astype("f8"), axes.get_images()
            low, high = (0, 255) if name == "rgb" else (want.min(), want.max())
            np.testing.assert_allclose(image.get_array(), (want - low) / (high - low))
        assert "data:image/png;base64" in inline_svg(figure, "title", name)


def test_motions_by_failures_and_frames(dataset: TrajectoryDataset) -> None:
    rates, frames = pictures(dataset).draw("motions").axes
    assert [t.get_text() for t in rates.texts] == ["33% of 6", "0% of 6"]
    assert [t.get_text() for t in rates.get_yticklabels()] == ["1 run", "0 walk"]
    table = dataset.where(end="failed")
    for patch in frames.patches:
        data = patch.get_data()
        assert (data.values - data.baseline).sum() == len(table)
    lengths = sorted(t.num_steps for t in table)
    edges, counts = frames.patches[0].get_data().edges, frames.patches[0].get_data().values
    assert counts.tolist() == np.histogram(lengths, edges)[0].tolist()


@pytest.fixture(scope="module")
def robots_drawer(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    path = f"{tmp_path_factory.mktemp('robot')}/expert.zarr"
    names = ["left_knee_joint", *(f"j{i}_joint" for i in range(1, 8))]
    robot = {**ROBOT, "joint_names": names, "action_names": names}
    size = Size(steps=1500, envs=40, joints=8, motions=16, frames=40)
    return pictures(record_all(path, size, robot=robot))


class TestWithARobot:
    """Pictures have the names, units and seconds of the robot; values are those planted."""

    def test_motions(self, robots_drawer: Pictures) -> None:
        rates, tracking, frames, coverage = robots_drawer.draw("motions").axes
        assert rates.get_yticklabels()[0].get_text() == "13 dance13"
        assert tracking.get_yticklabels()[0].get_text() == "7 dance7"
        assert tracking.texts[0].get_text().endswith(" rad")
        first = frames.patches[0].get_data()
        assert 20 <= first.edges[first.values.argmax()] <= 30
        assert [p.get_label() for p in coverage.patches] == ["recorded"]

    def test_actions_and_sigma(self, robots_drawer: Pictures) -> None:
        titles = [axes.get_title(loc="left") for axes in robots_drawer.draw("actions").axes]
        assert titles[0] == "left_knee"
        assert re.fullmatch(r"j3, 7\d% at a limit", titles[3])
        sigma = robots_drawer.draw("sigma")
        labels = [t.get_text() for t in sigma.legends[0].get_texts()]
        assert labels == ["an action", "median action", "j7"]

    def test_environments(self, robots_drawer: Pictures) -> None:
        still, far = robots_drawer.draw("environments").axes[2:]
        assert still.patches[0].get_data().values.argmax() == 13
        assert far.patches[1].get_data().values.nonzero()[0].tolist() == [13]

    def test_a_trajectory(self, robots_drawer: Pictures) -> None:
        axes = next(a for a in robots_drawer.draw("trajectory").axes if a.get_ylabel() == "rad")
        assert axes.get_title(loc="left") == "joint_pos"
        label = axes.get_legend().get_texts()[-1].get_text()
        assert label == "command, default pose not known"
        assert axes.get_xlim()[1] < 2


def test_joints_from_the_default_pose_are_drawn_beside_the_command(store: str) -> None:
    """Joints are measured from a default pose, the command is not."""
    at, names = SMALL.column("joint_pos"), [f"j{i}" for i in range(SMALL.joints)]
    lower = put("observations", np.s_[:, at : at + SMALL.joints], lambda values, _: values - 0.5)
    robot = {"joint_names": names, "default_joint_pos": [0.5] * SMALL.joints}
    figure = pictures(record(store, edit=lower, robot=robot)).draw("trajectory")
    axes = next(a for a in figure.axes if a.get_title(loc="left") == "joint_pos")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == "command, from the default pose"
    solid, dashed = axes.get_lines()[:2]
    assert np.abs(solid.get_ydata() - dashed.get_ydata()).max() < 0.4


@pytest.mark.parametrize("setting", ["text.usetex: True", "axes.titlesize: 40"])
def test_the_users_matplotlibrc_changes_nothing(
    dataset: TrajectoryDataset, tmp_path: object, setting: str
) -> None:
    with open(f"{tmp_path}/matplotlibrc", "w") as file:
        file.write(setting)
    words = ("plot", dataset.path, "--only", "timeline", "-o", f"{tmp_path}/a")
    done = helpers.run_cli(*words, MATPLOTLIBRC=str(tmp_path), PATH="")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_backend_is_an_error_in_words(dataset: TrajectoryDataset) -> None:
    for command in ("plot", "report"):
        done = helpers.run_cli(command, dataset.path, MPLBACKEND="x")
        assert done.returncode == 2
        assert "matplotlib refuses its configuration" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_command(cli, dataset: TrajectoryDataset) -> None:
    stem = dataset.path.removesuffix(".zarr")
    done = cli("plot", dataset.path, "--only", "timeline", "pace", "--theme", "dark")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"{stem}.{n}.png: drawn" for n in ("timeline", "pace")]
    done = cli("plot", dataset.path, "-o", stem + "2", "--format", "svg", "--pairs", "0")
    assert len(done.out.splitlines()) == len(ALL)
    assert os.path.getsize(f"{stem}2.trajectory.svg") > 1000
    cli("plot", dataset.path, "--only", "x").failed("picture 'x'")
    cli("plot", dataset.path, "--format", "xyz").failed("expected an ending of")
    cli("plot", dataset.path, "--trajectory", "999").failed("trajectory 999")
