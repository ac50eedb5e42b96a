"""Several stores read as one: every value in its place, ids of their own, one answer everywhere."""

from __future__ import annotations

import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mosaic_collect import (
    ExportError,
    IncompleteStoreError,
    InputError,
    StoreMismatchError,
    StoreNotFoundError,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
    store_statistics,
    summarize,
    verify_export,
    verify_store,
)
from mosaic_collect.cli import main
from mosaic_collect.look.charts import Timeline
from mosaic_collect.reading.trajectories import failed_ids, interrupted_ids
from tests.helpers import SMALL, record, rows
from tests.ranks import EVEN, MOVING, RAGGED, record_rank, record_ranks


@pytest.fixture
def ragged(tmp_path: Path) -> str:
    return record_ranks(tmp_path / "expert")


@pytest.fixture
def even(tmp_path: Path) -> str:
    return record_ranks(tmp_path / "expert", EVEN)


def test_the_whole_counts_what_its_parts_hold(ragged: str) -> None:
    dataset = TrajectoryDataset(ragged)
    assert (dataset.num_steps, dataset.num_envs, dataset.status) == (19, 4, "complete")
    assert dataset.num_valid == 2 * 19
    assert dataset.state.num_pairs == sum(t * n for t, n in RAGGED.values())
    assert dataset.num_ended == len(RAGGED)
    assert [part.num_steps for part in dataset.parts] == [t for t, _n in RAGGED.values()]
    assert TrajectoryDataset(dataset.parts[0].path).parts[0].num_steps == 5
    assert "expert" in dataset._repr_html_()
    facts = dict(summarize(ragged).facts)
    assert facts["parts"] == "3"
    assert facts["pairs"].startswith("55, of them 38 valid")
    timeline = Timeline.of(dataset)
    assert (timeline.edges[-1], timeline.runs) == (19, (5, 11))


def test_trajectories_have_ids_of_their_own_and_their_own_rows(ragged: str) -> None:
    dataset = TrajectoryDataset(ragged)
    table = dataset.trajectories
    ids = table.columns["id"]
    assert len(set(ids.tolist())) == len(ids)
    assert (np.diff(ids) > 0).all()
    firsts = {r: p.numbering.first_step for r, p in zip(RAGGED, dataset.view.parts, strict=True)}
    seen = []
    for one in table:
        rank = max(r for r in firsts if firsts[r] <= one.first_step)
        steps = [step - firsts[rank] for step in one.steps]
        expected = [rows(step, RAGGED[rank][1])["actions"][one.env] for step in steps]
        assert np.array_equal(one["actions"][:], expected)
        assert set(one["trajectory_id"][:].tolist()) == {one.id}
        seen += [(rank, step, one.env) for step in steps]
    every = [(r, s, e) for r, (steps, n) in RAGGED.items() for s in range(steps) for e in range(n)]
    assert sorted(seen) == every
    assert dataset.trajectory(int(ids[-1])).last_step == 18
    interrupted = table.where(end="interrupted").columns["id"]
    assert interrupted_ids(dataset.view).tolist() == interrupted.tolist()
    assert pickle.loads(pickle.dumps(dataset)).trajectories.columns["id"].tolist() == ids.tolist()


def test_one_array_where_the_widths_agree(even: str) -> None:
    dataset = TrajectoryDataset(even)
    parts = [TrajectoryDataset(f"{even}/rank-0000{rank}") for rank in EVEN]
    for name in ("observations", "valid_mask"):
        joined = np.concatenate([part.read(name) for part in parts])
        assert np.array_equal(dataset.read(name), joined)
        assert np.array_equal(dataset[name][1::3, ::2], joined[1::3, ::2])
        assert np.array_equal(dataset.read(name, 4, 6), joined[4:6])
    ids = [p.read("trajectory_id") for p in parts]
    assert np.array_equal(
        dataset.read("trajectory_id"), np.concatenate([ids[0], ids[1] + ids[0].max() + 1])
    )


def test_no_array_where_they_differ(ragged: str) -> None:
    dataset = TrajectoryDataset(ragged)
    for call in (lambda: dataset["actions"], lambda: dataset.read("actions"), dataset.to_xarray):
        with pytest.raises(InputError, match=r"rank-00000 has 3, .*rank-00001 has 4"):
            call()


def test_what_a_narrow_store_does_not_have_is_not_valid(ragged: str) -> None:
    view = TrajectoryDataset(ragged).view
    mask = view.read("valid_mask", range(19), range(4))
    ids = view.read("trajectory_id", range(19), range(4))
    assert mask.sum() == 38
    assert not mask[11:, 2:].any()
    assert (ids[11:, 2:] == -1).all()
    assert (ids[:5, :3] >= 0).all()


def test_patterns_and_lists(ragged: str, tmp_path: Path) -> None:
    names = [f"{ragged}/rank-0000{rank}" for rank in RAGGED]
    whole = TrajectoryDataset(ragged).trajectories.columns
    for where in (f"{ragged}/rank-*", names, [ragged], [Path(names[0]), f"{ragged}/*[13]"]):
        found = TrajectoryDataset(where).trajectories.columns
        assert all(np.array_equal(found[name], whole[name]) for name in whole)
    back = TrajectoryDataset(names[::-1])
    assert [part.num_envs for part in back.parts] == [2, 4, 3]
    with pytest.raises(InputError, match="the same store as"):
        TrajectoryDataset([ragged, names[0]])
    with pytest.raises(StoreNotFoundError, match="no store matches"):
        TrajectoryDataset(f"{tmp_path}/none-*")
    odd = tmp_path / "a[1].zarr"
    assert record(odd, 1).num_steps == 1


def test_two_stars_match_at_any_depth(tmp_path: Path) -> None:
    for at in ("a.zarr", "x/b.zarr", "x/y/z/c.zarr"):
        record(tmp_path / at, 1)
    found = [part.path for part in TrajectoryDataset(f"{tmp_path}/**/*.zarr").parts]
    assert found == [str(tmp_path / at) for at in ("a.zarr", "x/b.zarr", "x/y/z/c.zarr")]
    assert TrajectoryDataset(f"{tmp_path}/x/**/*.zarr").num_steps == 2
    assert TrajectoryDataset(f"{tmp_path}/*/*.zarr").num_steps == 1


def test_a_working_directory_that_changes_makes_no_difference(
    ragged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datasets = [TrajectoryDataset(where) for where in ("expert", "expert/rank-*")]
    monkeypatch.chdir("/")
    for dataset in datasets:
        dataset.refresh()
        assert dataset.num_steps == 19


def test_a_refresh_sees_ranks_that_came_later(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert", {0: (3, 2)})
    dataset = TrajectoryDataset(folder)
    record_rank(folder, 3, 4, 2)
    assert dataset.num_steps == 3
    dataset.refresh()
    assert dataset.num_steps == 7


def test_a_rank_killed_before_its_first_commit_has_no_steps(ragged: str) -> None:
    os.mkdir(f"{ragged}/rank-00002")
    dataset = TrajectoryDataset(ragged)
    assert (dataset.num_steps, len(dataset.parts), dataset.status) == (19, 4, "collecting")


def test_a_folder_without_a_rank_is_zero_steps(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert", {0: (0, 2)})
    assert TrajectoryDataset(folder).num_steps == 0
    with pytest.raises((ExportError, StoreNotFoundError), match="no rank has a step"):
        export_npy(folder, tmp_path / "x.npy")


def test_stores_of_other_fields_or_origins_are_no_whole(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    record_rank(folder, 0, 2, 2, metadata={"task": "walk"})
    record_rank(folder, 1, 2, 2, metadata={"task": "run"})
    with pytest.raises(StoreMismatchError, match=r"task: .* says walk, .* says run"):
        TrajectoryDataset(folder)
    record(tmp_path / "z", 1, schema=MOVING)
    with pytest.raises(StoreMismatchError, match="motion_id"):
        TrajectoryDataset([f"{folder}/rank-00000", tmp_path / "z"])


def test_motions_are_numbered_through_by_content(tmp_path: Path) -> None:
    """Of two ranks with motions of their own ids, of which one is another's by content."""
    folder = tmp_path / "expert"
    for rank, (names, completed) in enumerate((("ab", [1, 0]), ("bca", [1, 1, 0]))):
        motions = [{"path": f"{n}.npz", "sha256": n} for n in names]
        ledger = {"motions": motions, "motion_counts": {"completed": completed}}
        with TrajectoryWriter(folder, MOVING, 2, rank=rank, metadata=ledger) as writer:
            writer.add_step(**{**rows(0, 2, MOVING), "motion_id": np.array([0, 1], np.int32)})
    dataset = TrajectoryDataset(folder)
    assert [m["sha256"] for m in dataset.metadata["motions"]] == ["a", "b", "c"]
    assert dataset.metadata["motion_counts"] == {"completed": [1, 1, 1]}
    assert dataset.read("motion_id").tolist() == [[0, 1], [1, 2]]
    assert dataset.trajectories.columns["motion"].tolist() == [0, 1, 1, 2]
    assert len(dataset.where(motion="b")) == 2
    assert verify_store(dataset.path).ok
    if find_spec("xarray") is not None:
        assert dataset.to_xarray().motion_id.values.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("motion", [{"path": "a", "sha256": "a1"}, {"path": "a"}])
def test_a_motion_of_two_ranks_is_a_problem(tmp_path: Path, motion: dict[str, str]) -> None:
    """Without its hash it may be two motions of one name."""
    folder = tmp_path / "expert"
    ledger = {"motions": [motion], "motion_counts": {"fell": [1]}}
    for rank in (0, 1):
        record_rank(folder, rank, 2, 2, metadata=ledger)
    problems = " ".join(verify_store(folder).problems)
    told = "motion a1 was recorded by rank-00000 and rank-00001"
    assert (told in problems) if "sha256" in motion else not problems


def test_xarray_has_one_dataset_or_a_tree(tmp_path: Path, even: str) -> None:
    xarray = pytest.importorskip("xarray")
    dataset = TrajectoryDataset(even)
    data = dataset.to_xarray()
    assert data.step.values.tolist() == list(range(14))
    for name in dataset:
        assert np.array_equal(data[name].values, dataset.read(name))
    ragged = record_ranks(tmp_path / "ragged")
    tree = TrajectoryDataset(ragged).to_datatree()
    assert list(tree.children) == ["rank-00000", "rank-00001", "rank-00003"]
    assert tree["rank-00003/actions"].shape == (8, 2, 2)
    assert isinstance(tree, xarray.DataTree)


@pytest.mark.filterwarnings("error")
def test_other_readers_see_a_group_of_groups(ragged: str) -> None:
    zarr, xarray = pytest.importorskip("zarr"), pytest.importorskip("xarray")
    group = TrajectoryDataset(ragged).to_zarr()
    assert sorted(n for n, _ in group.groups()) == ["rank-00000", "rank-00001", "rank-00003"]
    assert dict(zarr.open_group(ragged, mode="r").members())["claims"].shape == (0,)
    tree = xarray.open_datatree(ragged, engine="zarr", consolidated=False)
    assert tree["rank-00001/actions"].shape == (6, 4, 2)


def test_an_export_holds_all_valid_pairs(ragged: str, tmp_path: Path) -> None:
    npy = tmp_path / "x.npy"
    report = export_npy(ragged, npy, fields=["actions", "trajectory_id"])
    assert report.num_pairs == 38
    ids = np.load(npy, allow_pickle=True).item()["trajectory_id"].reshape(-1)
    table = TrajectoryDataset(ragged).where(min_valid=1).columns
    assert dict(zip(*np.unique(ids, return_counts=True), strict=True)) == dict(
        zip(table["id"], table["num_valid"], strict=True)
    )
    assert verify_export(ragged, npy).ok
    with pytest.raises(InputError, match="lies inside the store"):
        export_npy(ragged, f"{ragged}/x.npy")


def test_an_export_needs_every_rank_that_joined(ragged: str, tmp_path: Path) -> None:
    os.rename(f"{ragged}/rank-00001", tmp_path / "elsewhere")
    with pytest.raises(IncompleteStoreError, match="rank-00001: recorded by ranks that joined"):
        export_npy(ragged, tmp_path / "x.npy")
    assert export_npy(ragged, tmp_path / "x.npy", allow_incomplete=True).num_pairs == 26
    os.mkdir(f"{ragged}/rank-00001")
    with pytest.raises(IncompleteStoreError, match="rank-00001"):
        export_npy(ragged, tmp_path / "x.npy")


def test_a_loader_draws_from_all(ragged: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed; sampling needs it")
    from mosaic_collect import BatchLoader

    ids = [
        id_
        for where in (ragged, TrajectoryDataset(ragged), f"{ragged}/rank-*")
        for batch in BatchLoader(where, 5, fields=["trajectory_id"])
        for id_ in batch["trajectory_id"].tolist()
    ]
    table = TrajectoryDataset(ragged).where(min_valid=1).columns
    counts = dict(zip(*np.unique(ids, return_counts=True), strict=True))
    assert counts == dict(zip(table["id"], 3 * table["num_valid"], strict=True))


def test_statistics_are_of_all_valid_pairs(ragged: str) -> None:
    found = store_statistics(ragged)
    assert found.num_valid == found.num_read == 38
    every = np.concatenate(
        [part.read("actions")[:, :2] for part in TrajectoryDataset(ragged).parts]
    )
    flat = every.reshape(-1, 2).astype(np.float64)
    assert np.allclose(found.fields["actions"].moments.mean, flat.mean(axis=0))


def test_failures_anywhere_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    for rank, num_envs in enumerate((2, 3)):
        with TrajectoryWriter(folder, SMALL.with_ends(), num_envs, rank=rank) as writer:
            for step in range(4):
                writer.add_step(**rows(step, num_envs))
            writer.end_trajectories([rank], failed=np.arange(num_envs) == rank)
    dataset = TrajectoryDataset(folder)
    assert failed_ids(dataset.view).tolist() == [0, 4]
    assert dataset.where(end="failed").columns["id"].tolist() == [0, 4]


def test_the_commands_take_them_like_any_store(
    ragged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", ragged]) == 0
    text = capsys.readouterr().out
    for words in ("19 x 2 to 4 envs", "never joined: rank-00002", "rank-00003: complete, 8 x 2"):
        assert words in text
    assert main(["inspect", "--json", f"{ragged}/rank-*"]) == 0
    assert len(json.loads(capsys.readouterr().out)["figures"]["parts"]) == 3
    assert main(["verify", ragged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["watch", ragged, "--once"]) == 0
    assert capsys.readouterr().out.count("rank-0000") == 3
    assert main(["export", ragged]) == 0
    assert main(["verify", ragged, "--npy", f"{ragged}.npy"]) == 0
    assert main(["stats", f"{ragged}/rank-*", "-o", f"{ragged}.stats.json"]) == 0
    assert os.path.exists(f"{ragged}.stats.json")
    assert main(["export", f"{ragged}/rank-*"]) == 2
    os.remove(f"{ragged}/rank-00001/actions/c.0.0.0")
    assert main(["verify", ragged]) == 1
    assert "rank-00001: actions" in capsys.readouterr().out
