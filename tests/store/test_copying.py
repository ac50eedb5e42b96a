"""Stores copied from any place to any: the same, or not there; again, and brought up to date."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mosaic_collect as mc
from mosaic_collect.errors import CorruptStoreError, InputError, StoreExistsError, StoreLockedError
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.store.view import StoreView
from tests.durability.rig import TINY_ENDS, add_tiny, check, check_resume, open_tiny
from tests.helpers import assert_same
from tests.ranks import RAGGED, record_ranks

STEPS = 7


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A store of full blocks and a partial one, with ends and equal fields."""
    path = str(tmp_path / "source.zarr")
    with open_tiny(path, TINY_ENDS) as writer:
        add_tiny(writer, STEPS)
        writer.end_trajectories([0])
    return path


@pytest.fixture
def ragged(tmp_path: Path) -> str:
    return record_ranks(tmp_path / "expert")


@pytest.fixture(params=["folder", "memory", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where nothing lies."""
    if request.param == "folder":
        return str(tmp_path / "target.zarr")
    store = pytest.importorskip("obstore.store")
    return store.MemoryStore() if request.param == "memory" else request.getfixturevalue("s3")


def shards(place: Any) -> dict[str, bytes]:
    """All of a store's shards, as they lie there."""
    view = StoreView.of(blobs_at(place))
    assert view is not None
    found = {}
    for name in view.grids:
        for block in range(view.state.num_blocks):
            with view.shard(name, block) as shard:
                found[f"{name} {block}"] = shard.whole()
    return found


def test_a_copy_is_the_same_store(source: str, target: Any, tmp_path: Path) -> None:
    told: list[int] = []
    report = mc.copy_store(source, target, progress=told.append)
    assert check(target) == STEPS
    assert shards(target) == shards(source)
    assert mc.verify_store(target).ok
    assert mc.TrajectoryDataset(target).state == mc.TrajectoryDataset(source).state
    assert (report.copied, report.kept, report.num_steps) == (len(shards(source)), 0, STEPS)
    assert sum(told) == report.copied
    back = str(tmp_path / "back.zarr")
    mc.copy_store(target, back)
    assert shards(back) == shards(source)
    check_resume(back, STEPS)


def test_an_older_copy_is_brought_up_to_date_and_one_that_was_resumed_is_no_copy(
    source: str, target: Any
) -> None:
    mc.copy_store(source, target)
    again = mc.copy_store(source, target)
    assert (again.copied, again.nbytes) == (0, 0)
    with open_tiny(source, None, resume=True) as writer:
        add_tiny(writer, 4)
    report = mc.copy_store(source, target)
    assert check(target) == STEPS + 4
    assert report.kept == 4 * 3  # fields, and the blocks that were full
    assert shards(target) == shards(source)
    with open_tiny(target, None, resume=True) as writer:
        add_tiny(writer, 2)
    with pytest.raises(StoreExistsError, match="gone on with"):
        mc.copy_store(source, target)
    assert check(target) == STEPS + 6


def assert_no_store(target: Any) -> None:
    with pytest.raises((mc.StoreNotFoundError, CorruptStoreError)):
        mc.TrajectoryDataset(target)


def test_an_interrupted_copy_is_no_store_and_goes_on(source: str, target: Any) -> None:
    left = iter(range(4))

    def interrupt(done: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mc.copy_store(source, target, threads=1, progress=interrupt)
    assert_no_store(target)
    report = mc.copy_store(source, target)
    assert 4 <= report.kept <= 8  # the first block's, and what of the second was on its way
    assert check(target) == STEPS


def test_a_damaged_source_is_no_copy(source: str, target: Any) -> None:
    with open(os.path.join(source, "x", "c.1.0.0"), "r+b") as file:
        file.seek(70)
        file.write(b"flip")
    with pytest.raises(CorruptStoreError, match="x, block 1"):
        mc.copy_store(source, target)
    assert_no_store(target)


def test_half_a_shard_at_the_target_is_made_whole(source: str, tmp_path: Path) -> None:
    target = str(tmp_path / "target.zarr")
    mc.copy_store(source, target)
    os.truncate(os.path.join(target, "x", "c.1.0.0"), 100)
    assert mc.copy_store(source, target).copied == 1
    assert mc.verify_store(target).ok


def test_ends_that_were_told_since_are_copied(source: str, target: Any) -> None:
    """Behind the same label and index: the one thing that changes of a committed row."""
    with open_tiny(source, None, resume=True) as writer:
        add_tiny(writer, 1)
        writer.commit()
        mc.copy_store(source, target)
        writer.end_trajectories([0, 1])
    mc.copy_store(source, target)
    assert shards(target) == shards(source)


def test_links_are_kept_where_there_are_any(tmp_path: Path) -> None:
    source, target = str(tmp_path / "s.zarr"), str(tmp_path / "t.zarr")
    schema = mc.Schema.mosaic(3, 2)
    with open_tiny(source, schema) as writer:
        for step in range(4):
            widths = {f.name: f.dim for f in schema.fields if f.default is None}
            writer.add_step(**{n: np.full((2, d), step, np.float32) for n, d in widths.items()})
    mc.copy_store(source, target)
    files = [os.stat(os.path.join(target, n, "c.0.0.0")) for n in ("actions", "action_mean")]
    assert os.path.samestat(*files)
    assert mc.verify_store(target).ok


def test_what_is_something_else_is_left_alone(source: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.zarr")
    with open_tiny(other, TINY_ENDS) as writer:
        add_tiny(writer, 2)
    with pytest.raises(StoreExistsError, match="another store, of 2 steps"):
        mc.copy_store(source, other)
    os.remove(os.path.join(other, "zarr.json"))
    with pytest.raises(StoreExistsError, match="it is another store's"):
        mc.copy_store(source, other)
    shutil.copy(os.path.join(source, "zarr.json"), tmp_path / "x.json")
    with pytest.raises(StoreExistsError, match="it holds"):
        mc.copy_store(source, tmp_path)
    with pytest.raises(StoreExistsError):
        mc.copy_store(source, tmp_path / "x.json")


def test_a_place_is_not_copied_to_itself_or_under_a_writer(source: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another place"):
        mc.copy_store(source, os.path.join(source, "..", "source.zarr"))
    target = str(tmp_path / "target.zarr")
    mc.copy_store(source, target)
    with open_tiny(target, None, resume=True), pytest.raises(StoreLockedError):
        mc.copy_store(source, target)


def test_additions_of_others_are_noted(source: str, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(source, mode="r+", zarr_format=3)
    group.attrs["note"] = "mine"
    group.create_array("rewards", shape=(STEPS,), dtype="f4")
    with pytest.warns(UserWarning, match="Consolidated"):
        zarr.consolidate_metadata(source)
    report = mc.copy_store(source, tmp_path / "target.zarr")
    assert report.notes == ("left out what others added: rewards",)
    assert mc.TrajectoryDataset(tmp_path / "target.zarr").to_zarr().attrs["note"] == "mine"


def test_a_folder_of_ranks(ragged: str, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    report = mc.copy_store(ragged, target)
    assert report.num_steps == sum(p.num_steps for p in mc.TrajectoryDataset(ragged).parts)
    mine, copied = mc.TrajectoryDataset(ragged), mc.TrajectoryDataset(target)
    assert [Path(p).name for p in copied.never_joined] == ["rank-00002"]
    for one, other in zip(mine.parts, copied.parts, strict=True):
        for name in one.fields:
            assert_same(other.read(name), one.read(name))
    assert mc.verify_store(target).ok
    again = mc.copy_store(ragged, target)
    assert (again.copied, again.kept) == (0, report.copied)


def test_an_interrupted_copy_of_ranks_lacks_some(ragged: str, tmp_path: Path) -> None:
    target = tmp_path / "copy"

    class Interrupted(PosixBlobs):
        def within(self, name: str) -> PosixBlobs:
            if name != "rank-00000":
                raise KeyboardInterrupt
            return super().within(name)

    with pytest.raises(KeyboardInterrupt):
        mc.copy_store(ragged, Interrupted(str(target)))
    assert mc.TrajectoryDataset(target).missing
    with pytest.raises(mc.IncompleteStoreError, match="rank-0000"):
        mc.export_npy(target, tmp_path / "x.npy")
    mc.copy_store(ragged, target)
    assert not mc.TrajectoryDataset(target).missing


def test_a_folder_of_ranks_is_not_copied_over_another(ragged: str, tmp_path: Path) -> None:
    other = record_ranks(tmp_path / "other", RAGGED)
    with pytest.raises(mc.StoreExistsError, match="no copy of this folder of ranks"):
        mc.copy_store(ragged, other)
    with pytest.raises(mc.InputError, match="another place"):
        mc.copy_store(ragged, ragged)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(mc.StoreExistsError):
        mc.copy_store(ragged, tmp_path / "mine")
