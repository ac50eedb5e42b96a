"""What opening refuses, each in words, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter, verify_store
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    MissingDependencyError,
    NewerFormatError,
    SpaceError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.store.lock import LOCK_NAME
from tests.export import stores
from tests.helpers import (
    SMALL,
    add,
    assert_holds,
    assert_same,
    buffer_mb,
    contents,
    edit_state,
    open_writer,
    record,
)
from tests.recording.mortal_files import MortalFiles

N = 4


class TestExisting:
    """A path that is taken."""

    def test_a_dangling_link(self, store: str) -> None:
        os.symlink(store + ".gone", store)
        with pytest.raises(StoreExistsError):
            TrajectoryWriter(store, SMALL, N)

    def test_another_zarr_group(self, store: str) -> None:
        os.mkdir(store)
        document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        Path(store, "zarr.json").write_text(json.dumps(document))
        with pytest.raises(StoreNotFoundError, match="no mosaic_collect store"):
            TrajectoryWriter(store, SMALL, N, resume=True)
        with pytest.raises(StoreNotFoundError, match="no mosaic_collect store"):
            TrajectoryDataset(store)

    @pytest.mark.parametrize("path", ["", "a/b.zarr", Path("p.zarr")])
    def test_an_empty_folder_or_a_new_one_of_any_depth(self, store: str, path: str | Path) -> None:
        os.mkdir(store)
        place = Path(store, path) if isinstance(path, Path) else os.path.join(store, path)
        record(place, 2)
        assert_holds(TrajectoryDataset(place), range(2))


class TestUnborn:
    """A folder that was killed before its first root document: a store of zero steps."""

    @pytest.fixture(params=[[], [LOCK_NAME], [LOCK_NAME, ".zarr.json.tmp"]], ids=len)
    def unborn(self, request: pytest.FixtureRequest, store: str) -> str:
        os.mkdir(store)
        for name in request.param:
            Path(store, name).write_text("{")
        return store

    def test_it_reads_as_zero_steps(self, unborn: str) -> None:
        dataset = TrajectoryDataset(unborn)
        assert dataset.num_steps == dataset.num_envs == dataset.num_valid == 0
        assert dataset.num_ended == 0
        assert dataset.status == "collecting"
        assert dataset.metadata == {}
        assert dataset.fields == ()
        with pytest.raises(StoreNotFoundError, match="killed before its first commit"):
            dataset.read("observations")

    def test_it_is_gone_on_with(self, unborn: str) -> None:
        with open_writer(unborn, resume=True) as writer:
            add(writer, 0)
        assert_holds(TrajectoryDataset(unborn), range(1))
        assert not [n for n in os.listdir(unborn) if n.endswith(".tmp")]

    def test_it_does_not_know_its_schema(self, unborn: str) -> None:
        with pytest.raises(InputError, match="schema: expected"):
            TrajectoryWriter(unborn, resume=True)
        with pytest.raises(InputError, match="num_envs: expected"):
            TrajectoryWriter(unborn, SMALL, resume=True)

    def test_it_is_made_anew_without_a_word(self, unborn: str) -> None:
        record(unborn, 2)
        assert_holds(TrajectoryDataset(unborn), range(2))


OTHER = Schema((Field(name="x", dim=2), Field(name="actions", dtype="int32")))


def fill(store: str, **options: Any) -> None:
    """Two steps of another schema, N, compressor and metadata."""
    with TrajectoryWriter(
        store, OTHER, 3, buffer_mb=1, compressor="lz4", metadata={"of": "the second"}, **options
    ) as writer:
        for step in range(2):
            writer.add_step(x=np.full((3, 2), float(step)), actions=np.full(3, step, np.int32))


def assert_is_filled(store: str) -> None:
    dataset = TrajectoryDataset(store)
    assert (dataset.num_steps, dataset.num_envs, len(dataset.state.runs)) == (2, 3, 1)
    assert dataset.schema == OTHER
    assert dataset.metadata == {"of": "the second"}
    assert_same(dataset.read("actions"), np.tile(np.array([[0], [1]], np.int32), 3))
    assert verify_store(store).ok
    # Of the store before, nothing is left.
    there = set(contents(store))
    names = OTHER.stored_names
    assert {p for p in there if p.endswith("zarr.json")} == {
        "zarr.json",
        *(f"{n}/zarr.json" for n in names),
    }
    assert len(there) == 1 + 2 * len(names)


class TestAnew:
    """A store that is replaced: one of zero steps, or any one with ``overwrite``."""

    @pytest.mark.parametrize("resume", [False, "auto"])
    def test_a_script_that_failed_at_its_first_step_runs_again(
        self, store: str, resume: bool | str
    ) -> None:
        with pytest.raises(InputError, match="bad step"), open_writer(store) as writer:
            writer.add_step(observations=1)
        fill(store, resume=resume)
        assert_is_filled(store)

    def test_a_store_of_zero_steps_can_be_continued(self, store: str) -> None:
        open_writer(store, metadata={"a": 1}).close()
        for resume in ("auto", True):
            with TrajectoryWriter(store, resume=resume) as writer:
                assert (writer.num_envs, writer.metadata) == (N, {"a": 1})
        with pytest.raises(StoreMismatchError):
            TrajectoryWriter(store, OTHER, 3, resume=True)

    def test_one_whose_writer_lives_is_not_replaced(self, store: str) -> None:
        with open_writer(store) as writer:
            for options in ({}, {"overwrite": True}, {"resume": "auto"}):
                with pytest.raises(StoreLockedError):
                    fill(store, **options)
            add(writer, 0)
        assert_holds(TrajectoryDataset(store), range(1))

    @pytest.mark.parametrize("steps", [None, 0, 1, 9])
    def test_overwrite(self, store: str, steps: int | None) -> None:
        if steps is not None:
            record(store, steps)
        fill(store, overwrite=True)
        assert_is_filled(store)

    def test_the_error_names_the_ways(self, store: str) -> None:
        record(store, 4)
        with pytest.raises(StoreExistsError) as error:
            fill(store)
        assert str(error.value) == (
            f"{store} exists, with 4 steps: resume=True continues it, overwrite=True deletes it, "
            "another path makes a new one"
        )

    def test_a_kill_at_any_operation_leaves_the_old_store_an_empty_one_or_the_new_one(
        self, store: str
    ) -> None:
        """And the next attempt makes it what it should be."""
        for at in range(1, 400):
            shutil.rmtree(store, ignore_errors=True)
            record(store, 5)
            files = MortalFiles()
            files.fuel = at
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("mosaic_collect.store.posix.PosixFiles", lambda made=files: made)
                    fill(store, overwrite=True)
            except WriteError:
                pass
            else:
                assert_is_filled(store)
                break
            dataset = TrajectoryDataset(store)
            if dataset.num_steps == 5:
                assert_holds(dataset, range(5))
            else:
                assert dataset.num_steps in (0, 2)
            fill(store, overwrite=True)
            assert_is_filled(store)
        assert at > 20


class TestMismatch:
    """A resume with other arguments than the store's names each."""

    def test_schema_n_and_compressor_at_once(self, store: str) -> None:
        record(store, 2, compressor="lz4")
        before = contents(store)
        other = Schema.mosaic(4, 2, extra=[Field(name="reward")])
        with pytest.raises(StoreMismatchError) as caught:
            TrajectoryWriter(store, other, N + 1, resume=True, compressor="zstd")
        message = str(caught.value)
        for part in (
            "observations: expected",
            "dim=3",
            "dim=4",
            "reward: not in the store",
            "num_envs: expected 4, got 5",
            "compressor: expected lz4, got zstd",
        ):
            assert part in message
        assert contents(store) == before

    @pytest.mark.parametrize("compressor", ["lz4", "zstd", "none"])
    def test_auto_is_whatever_the_store_has(self, store: str, compressor: str) -> None:
        record(store, 2, compressor=compressor)
        with TrajectoryWriter(store, resume=True, compressor="auto") as writer:
            add(writer, 2)
        assert TrajectoryDataset(store).state.compressor.name == compressor
        assert_holds(TrajectoryDataset(store), range(3))


class TestFormat:
    """Root documents of another day or hand."""

    @pytest.mark.parametrize("changes", [{}, {"compressor": "brotli", "fields": None}])
    def test_a_newer_version(self, store: str, changes: dict[str, Any]) -> None:
        """It may say things unknown today."""
        record(store, 2)
        edit_state(store, is_sealed=False, format_version=3, **changes)
        before = contents(store)
        for open_it in (TrajectoryDataset, lambda p: TrajectoryWriter(p, resume=True)):
            with pytest.raises(NewerFormatError, match=r"version 3.*up to 2: upgrade"):
                open_it(store)
        assert contents(store) == before

    @pytest.mark.parametrize("version", [0, 1, -1, None, "2", True, 2.0])
    def test_no_version(self, store: str, version: Any) -> None:
        record(store, 2)
        edit_state(store, is_sealed=False, format_version=version)
        with pytest.raises(CorruptStoreError, match="format_version"):
            TrajectoryDataset(store)

    def test_a_root_document_missing_beside_shards(self, store: str) -> None:
        record(store, 2)
        os.unlink(os.path.join(store, "zarr.json"))
        for open_it in (TrajectoryDataset, lambda p: TrajectoryWriter(p, resume=True)):
            with pytest.raises(CorruptStoreError, match=r"zarr\.json is missing"):
                open_it(store)

    def test_a_missing_shard_stops_a_resume_before_it_writes(self, store: str) -> None:
        record(store, 7)
        os.unlink(os.path.join(store, "actions", "c.1.0.0"))
        before = contents(store)
        with pytest.raises(CorruptStoreError, match=r"1 committed shards are missing.*c\.1\.0\.0"):
            TrajectoryWriter(store, resume=True)
        assert contents(store) == before

    def test_a_damaged_partial_block_stops_a_resume(self, store: str) -> None:
        record(store, 4)
        stores.flip(f"{store}/actions/c.1.0.0", 3)
        with pytest.raises(CorruptStoreError, match=r"actions, block 1.*checksum"):
            TrajectoryWriter(store, resume=True)


class TestSpace:
    """Not enough memory for a block."""

    def test_a_resume_whose_blocks_are_larger(self, store: str) -> None:
        record(store, 4, block_steps=8)
        before = contents(store)
        with pytest.raises(SpaceError, match="buffer_mb"):
            TrajectoryWriter(store, resume=True, buffer_mb=buffer_mb(1, N))
        assert contents(store) == before

    def test_no_disk(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = SimpleNamespace(f_blocks=1000, f_bavail=1, f_frsize=100)
        monkeypatch.setattr("os.statvfs", lambda _: usage)
        with pytest.raises(SpaceError, match="100 bytes free"):
            TrajectoryWriter(store, SMALL, N)
        assert not os.path.exists(store)


@pytest.mark.parametrize("device", ["tpu", "cuda:77", "mps", ""])
def test_a_device_that_is_not_there(store: str, device: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed, so no device can be named")
    with pytest.raises(InputError, match="device"):
        TrajectoryWriter(store, SMALL, N, device=device)
    assert not os.path.exists(store)


def test_a_device_without_torch(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="'cuda:0' needs torch"):
        TrajectoryWriter(store, SMALL, N, device="cuda:0")
    assert not os.path.exists(store)


def test_a_torch_device_of_the_cpu_is_the_cpu(store: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with open_writer(store, device=torch.device("cpu")) as writer:
        add(writer, 0)
    assert_holds(TrajectoryDataset(store), range(1))
