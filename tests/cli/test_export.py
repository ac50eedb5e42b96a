"""``mosaic-collect export`` and ``store``: options handed on, sizes before, figures after."""

from __future__ import annotations

import json
import os

import pytest

from mosaic_collect import TrajectoryDataset, export_npy, export_store
from tests import helpers
from tests.export import stores


@pytest.mark.parametrize("path", ["FOLDER/expert.zarr", "expert.zarr", "expert.zarr/"])
def test_beside_the_store_by_its_name(cli, made: str, npy: str, monkeypatch, path: str) -> None:
    if not path.startswith("FOLDER"):
        monkeypatch.chdir(os.path.dirname(made))
    done = cli("export", path.replace("FOLDER", os.path.dirname(made)))
    assert (done.code, done.err) == (0, "")
    assert stores.load(npy)["metadata"]["num_steps"] > 0


def test_says_sizes_and_what_was_left_out(cli, made: str, npy: str) -> None:
    out = cli("export", made, npy).out
    before, after, left, *notes = out.splitlines()
    report = export_npy(made, npy)
    assert f"{report.num_pairs:,} pairs, compact" in before
    for words in ("RAM", "training device", "every rank"):
        assert words in before
    assert after.startswith(f"{npy}: {report.num_pairs:,} valid pairs, compact")
    assert left == f"left out: {report.left_out.invalid} invalid, 1 nonfinite"
    assert notes == [f"note: {note}" for note in report.notes]


OPTIONS = [
    (["--layout", "compact"], {"layout": "compact"}),
    (["--layout", "grid", "--allow-nonfinite"], {"layout": "grid", "allow_nonfinite": True}),
    (["--fields", "actions", "action_mean"], {"fields": ["actions", "action_mean"]}),
    (["--max-pairs", "7", "--seed", "3"], {"max_pairs": 7, "seed": 3}),
    (["--exclude-interrupted"], {"exclude_interrupted": True}),
    (["--exclude-failed"], {"exclude_failed": True}),
    (["--skip-damaged"], {"skip_damaged": True}),
    (["--allow-incomplete"], {"allow_incomplete": True}),
]


@pytest.mark.parametrize(("arguments", "options"), OPTIONS)
def test_options_are_the_librarys(cli, made: str, npy: str, tmp_path, arguments, options) -> None:
    other = str(tmp_path / "other.npy")
    assert cli("export", made, npy, *arguments).code == 0
    export_npy(made, other, **options)
    with open(npy, "rb") as one, open(other, "rb") as two:
        assert one.read() == two.read()


def test_an_unfinished_store(cli, store: str, npy: str) -> None:
    stores.write(store, 5, complete=False)
    cli("export", store, npy).failed("still collecting", "with --allow-incomplete")
    assert cli("export", store, npy, "--allow-incomplete").code == 0


def test_a_full_disk(cli, made: str, npy: str, monkeypatch) -> None:
    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    done = cli("export", made, npy)
    assert (done.code, done.err.count("\n"), "Errno" in done.err) == (2, 1, False)
    assert "bytes: no space left on device" in done.err


@pytest.fixture
def others(tmp_path) -> list[str]:
    """Two more stores of other widths."""
    paths = [str(tmp_path / f"{name}.zarr") for name in ("second", "third")]
    for number, path in enumerate(paths, 1):
        stores.write(path, 5, first=100 * number, num_envs=2 + number, schema=stores.STUDENT)
    return paths


def test_several_stores(cli, made: str, others: list[str], npy: str, tmp_path) -> None:
    other = str(tmp_path / "other.npy")
    done = cli("export", made, *others, npy, "--fields", "actions", "trajectory_id")
    assert (done.code, done.err) == (0, "")
    report = export_npy([made, *others], other, fields=["actions", "trajectory_id"])
    with open(npy, "rb") as one, open(other, "rb") as two:
        assert one.read() == two.read()
    assert f"{report.num_pairs:,} valid pairs, compact" in done.out
    assert "third.zarr are its own and" in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("expert.zarr expert", ".npy"),
        ("expert.zarr missing/expert.npy", "expected a folder at"),
        ("expert.zarr expert.zarr/expert.npy", "inside the store"),
        ("expert.zarr e.npy --fields rewards", "rewards"),
        ("expert.zarr e.npy --layout grid", "use --layout compact, or --allow-nonfinite"),
        ("expert.zarr e.npy --max-pairs 0", "--max-pairs: expected"),
        ("expert.zarr e.npy --seed -1", "seed"),
        ("second.zarr e.npy --exclude-failed", "trajectory_end"),
        ("expert.npy", "expected a store before"),
        ("expert.zarr second.zarr", "second.zarr: expected a name ending in .npy"),
        ("expert.zarr second.zarr e.npy --layout grid", "number of environments"),
    ],
)
def test_errors(cli, made: str, others: list[str], monkeypatch, line: str, words: str) -> None:
    folder = os.path.dirname(made)
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))
    cli("export", *line.split()).failed(words)
    assert sorted(os.listdir(folder)) == before


def test_other_formats(cli, made: str, npy: str) -> None:
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("pyarrow")
    path = npy.replace(".npy", ".h5")
    done = cli("export", made, path, "--validation-fraction", "0.5", "--fields", "actions")
    assert done.code == 0, done.err
    assert "valid pairs, hdf5" in done.out
    with h5py.File(path) as file:
        assert set(file["mask"]) == {"train", "valid"}
        assert file["data/demo_0/actions"].shape[1] == 2
    cli("export", made, path, "--workers", "2").failed("hdf5 has one writer")
    cli("export", made, npy, "--fps", "50").failed("--fps: no option of an export to npy")
    folder = npy.removesuffix(".npy")
    cli("export", made, folder, "--format", "lerobot").failed("--fps: expected steps per second")
    done = cli("export", made, folder, "--format", "lerobot", "--fps", "50")
    assert "valid pairs, lerobot" in done.out
    assert os.path.isfile(os.path.join(folder, "meta", "info.json"))


def test_a_filtered_copy_by_the_words_of_the_command_line(cli, tmp_path) -> None:
    path, target, same = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.zarr"))
    helpers.record(path, 12, masks=True)
    words = ("--steps", "2:9", "--fields", "actions", "--compressor", "none", "--json")
    done = cli("store", path, target, *words)
    assert done.code == 0, done.err
    report = export_store(path, same, steps="2:9", fields=["actions"], compressor="none")
    assert json.loads(done.out)["num_pairs"] == report.num_pairs
    found, want = TrajectoryDataset(target), TrajectoryDataset(same)
    assert found.schema.names == ("actions",)
    assert found.state.compressor.name == "none"
    helpers.assert_same(found.read("actions"), want.read("actions"))
    for words, message in (
        ((path,), "expected a store before the new store's name"),
        ((path, path), "the same store as"),
        ((path, "x.zarr", "--steps", "9:2:2"), "steps"),
    ):
        cli("store", *words).failed(message)
