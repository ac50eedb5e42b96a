"""The data_loader takes the stores that an export takes, and the pairs that an export holds."""

from __future__ import annotations

import json
import logging
import os
import shutil
from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from torch.utils.data import DataLoader  # noqa: E402

from mosaic_collect import BatchLoader, Schema, TrajectoryDataset, export_npy  # noqa: E402
from mosaic_collect.errors import (  # noqa: E402
    CorruptStoreError,
    IncompleteStoreError,
    InputError,
    StoreMismatchError,
)
from mosaic_collect.mosaic import attach  # noqa: E402
from mosaic_collect.npyfile.read import read_npy  # noqa: E402
from tests import helpers  # noqa: E402
from tests.mosaic.fork import Algorithm  # noqa: E402
from tests.sampling.common import NUMBERED, add, numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_stores_of_another_origin_are_refused_unless_that_is_allowed(tmp_path: Any) -> None:
    stores = []
    for task in ("walk", "run"):
        stores.append(str(tmp_path / task))
        helpers.record(stores[-1], 4, metadata={"task": task})
    for made in (lambda: BatchLoader(stores, 4), lambda: attach(Algorithm(3, 2), stores)):
        with pytest.raises(StoreMismatchError, match=r"walk says walk, .*allow_different='task'"):
            made()
    assert BatchLoader(stores, 4, allow_different=["task"]).num_pairs == 32
    with pytest.raises(InputError, match="allow_different: expected some of simulator, task"):
        BatchLoader(stores, 4, allow_different=["tasks"])


def test_a_rank_whose_store_is_missing_is_refused_unless_that_is_allowed(tmp_path: Any) -> None:
    folder = str(tmp_path / "ranks")
    for rank in (0, 1):
        with helpers.open_writer(folder, 7, NUMBERED, 4, rank=rank, world_size=2) as writer:
            add(writer, 10 * rank, 4)
    loader = BatchLoader(folder, 4)
    shutil.rmtree(f"{folder}/rank-00001")
    for made in (lambda: BatchLoader(folder, 4), loader.refresh):
        with pytest.raises(IncompleteStoreError, match=r"rank-00001: .*allow_incomplete=True"):
            made()
    assert BatchLoader(folder, 4, allow_incomplete=True).num_pairs == 28


def test_finite_fields_give_the_pairs_of_an_export_of_more_fields(store: str, npy: str) -> None:
    """As attach does: MOSAIC's file has the teacher's observations, its update the student's."""
    schema = Schema.mosaic(3, 2, 4)
    with helpers.open_writer(store, 4, schema, 3) as writer:
        for step in range(8):
            rows = helpers.rows(step, 4, schema)
            rows["observations"][step % 4] = np.nan if step > 4 else 0
            writer.add_step(**rows)
    pairs = export_npy(store, npy, layout="compact").num_pairs
    assert pairs == 32 - 3
    assert BatchLoader(store, 4, ["actions"]).num_pairs == 32
    assert BatchLoader(store, 4, ["actions"], finite_fields=["observations"]).num_pairs == pairs
    attached = attach(Algorithm(4, 2), store)
    assert attached.loader.num_pairs == pairs
    attached.close()


def test_metadata_that_claim_steps_without_end_are_refused(store: str, npy: str) -> None:
    numbered(store, 12, 7, 4)
    helpers.edit_state(store, committed_steps=1 << 39, num_valid=7 << 39)
    for skip in (False, True):
        for made in (
            lambda skip=skip: BatchLoader(store, 4, skip_damaged=skip),
            lambda skip=skip: export_npy(store, npy, skip_damaged=skip, layout="compact"),
        ):
            with pytest.raises(CorruptStoreError, match=r"claim \d+ blocks, and 3 shards"):
                made()


def two_ranks(folder: str) -> list[Any]:
    return [helpers.open_writer(folder, 7, NUMBERED, 4, rank=r, world_size=3) for r in (0, 1)]


def test_trajectories_are_the_same_ones_when_stores_grow(tmp_path: Any) -> None:
    folder = str(tmp_path / "ranks")
    first, second = two_ranks(folder)
    add(first, 0, 4)
    add(second, 10, 4)
    first.commit(), second.commit()
    kept = TrajectoryDataset(folder).trajectories.columns["id"][[2, 7, 9]]
    options = {"trajectories": kept, "fields": ["number", "wide", "trajectory_id"]}
    loader = BatchLoader(folder, 3, **options)
    expected = sorted(numbers(loader).tolist())
    assert {number % 7 for number in expected} == {2, 0}
    state = loader.state_dict()
    first.end_trajectories([2, 3])
    add(first, 4, 2)
    first.commit()
    third = helpers.open_writer(folder, 7, NUMBERED, 4, rank=2, world_size=3)
    add(third, 20, 4)
    third.commit()
    loader.refresh()
    assert sorted(numbers(loader).tolist()) == expected
    assert BatchLoader(folder, 3, **options).num_pairs != len(expected), "others have these ids now"
    resumed = BatchLoader(folder, 3, **options)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    batches = list(resumed)
    assert sorted(numbers(batches).tolist()) == expected
    ids = torch.cat([batch["trajectory_id"] for batch in batches])
    assert set(ids.tolist()) == set(kept.tolist()), "as they were numbered then"
    resumed.refresh()
    assert sorted(numbers(resumed).tolist()) == expected
    other = BatchLoader(folder, 3, **{**options, "trajectories": kept[:2]})
    with pytest.raises(InputError, match="trajectories: the state has"):
        other.load_state_dict(state)
    for writer in (first, second, third):
        writer.close()


def test_a_state_goes_on_when_another_rank_has_its_first_step(tmp_path: Any) -> None:
    folder = str(tmp_path / "ranks")
    first, second = two_ranks(folder)
    add(second, 10, 6)
    second.commit()
    loader = BatchLoader(folder, 5)
    got = numbers(islice(loader, 4))
    state = json.loads(json.dumps(loader.state_dict()))
    rest = numbers(BatchLoader(folder, 5))[20:]
    add(first, 0, 6)
    first.commit()
    for resumed in (BatchLoader(folder, 5), loader):
        resumed.load_state_dict(state)
        assert np.array_equal(np.concatenate([got, numbers(resumed)]), np.concatenate([got, rest]))
        resumed.refresh()
        assert len(numbers(resumed)) == 84
    first.close()
    second.close()


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_of_workers_mix_as_many_pieces(store: str, workers: int, caplog: Any) -> None:
    numbered(store, 96, 64, 4)
    shuffle_buffer_mb = 16 * 12 * tile_mb(store)
    loader = BatchLoader(store, 64, shuffle_buffer_mb=shuffle_buffer_mb, drop_last=True)
    tiles = loader._source.tiles_for(workers)
    row_nbytes = sum(field.row_nbytes for field in tiles.fields)
    assert tiles.slots * tiles.rows * row_nbytes <= shuffle_buffer_mb * 1e6 / workers
    assert 10 <= tiles.active < len(tiles.tiles)
    with caplog.at_level(logging.WARNING):
        next(iter(loader))
        assert not caplog.messages
        next(iter(BatchLoader(store, 64, shuffle_buffer_mb=2 * tile_mb(store))))
    assert "batches mix the pairs of 1 of" in caplog.messages[0]
    loader.close()


def test_workers_with_little_memory_cut_chunks_and_mix(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile of a whole chunk would leave each of them one to draw from."""
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 10_000)
    expected = numbered(store, 512, 8, 32)
    loader = BatchLoader(store, 16, shuffle_buffer_mb=8 * 2.5 * tile_mb(store))
    epoch = []
    for worker in range(8):
        loader.set_epoch(0)
        epoch += list(loader._epoch(worker, 8))
    assert np.array_equal(np.sort(numbers(epoch)), expected)
    assert loader._source.tiles_for(8).rows < loader._source.tiles.rows
    blocks = [len(set((batch["number"] // 256).tolist())) for batch in epoch]
    assert np.median(blocks) >= 3, "of sixteen"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_learn_of_epochs_and_of_growth(store: str, context: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 6)
        writer.commit()
        loader, fresh = BatchLoader(store, 6), BatchLoader(store, 6)
        options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": context}
        data_loader = DataLoader(loader, persistent_workers=True, **options)
        numbers(data_loader)
        loader.set_epoch(7)
        fresh.set_epoch(7)
        seventh = numbers(data_loader)
        assert np.array_equal(seventh, numbers(DataLoader(fresh, **options)))
        assert not np.array_equal(seventh, numbers(data_loader)), "the one behind it"
        add(writer, 6, 4)
        writer.commit()
        assert len(numbers(data_loader)) == 42, "until it is told to look again"
        loader.refresh()
        assert np.array_equal(np.sort(numbers(data_loader)), np.arange(70))
        loader.load_state_dict(fresh.state_dict())
        assert np.array_equal(np.sort(numbers(data_loader)), np.arange(42))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
def test_a_stateful_data_loader_goes_on(store: str) -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    )
    numbered(store, 23, 7, 4)
    for workers in (0, 2):
        for mode in ("epochs", "stream"):
            options = {"mode": mode, "shuffle_buffer_mb": 9 * tile_mb(store)}

            def data_loader(options: Any = options, workers: int = workers) -> Any:
                made = BatchLoader(store, 6, **options)
                return stateful.StatefulDataLoader(made, batch_size=None, num_workers=workers)

            whole = numbers(islice(data_loader(), 20))
            first = data_loader()
            got = numbers(islice(first, 7))
            second = data_loader()
            second.load_state_dict(first.state_dict())
            rest = numbers(islice(second, 13))
            assert np.array_equal(np.concatenate([got, rest]), whole)


def test_a_loader_costs_no_file_that_stays(store: str) -> None:
    """Of what workers are told by."""
    numbered(store, 4, 7, 4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        BatchLoader(store, 6).set_epoch(1)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_loader_draws_the_side_that_an_export_holds(tmp_path: Any, npy: str) -> None:
    stores = [str(tmp_path / name) for name in ("a", "b")]
    for store, steps in zip(stores, (12, 8), strict=True):
        with helpers.open_writer(store, 6, block_steps=3) as writer:
            for step in range(steps):
                helpers.add(writer, step, masks=True)
                writer.end_trajectories(np.arange(step % 2, 6, 2))
    options = {"validation_fraction": 0.3, "split_seed": 5}
    total = 0
    for split in ("train", "validation"):
        export_npy(stores, npy, "compact", ["trajectory_id", "actions"], split=split, **options)
        expected = read_npy(npy)
        fields = ["actions", "trajectory_id"]
        loader = BatchLoader(stores, 5, fields, split=split, **options)
        batches = list(loader)
        for name in fields:
            got = np.concatenate([batch[name].numpy() for batch in batches]).reshape(
                loader.num_pairs, -1
            )
            want = expected[name].reshape(loader.num_pairs, -1)
            assert sorted(got.tolist()) == sorted(want.tolist())
        total += loader.num_pairs
        other = BatchLoader(stores, 5, fields, split=split, validation_fraction=0.3)
        with pytest.raises(InputError, match=r"state: .*split_seed: the state has 5"):
            other.load_state_dict(loader.state_dict())
    assert total == BatchLoader(stores, 5).num_pairs
