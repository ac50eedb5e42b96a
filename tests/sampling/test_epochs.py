"""Epochs: every pair once, over all ranks and workers, whatever the pool."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from mosaic_collect import BatchLoader, TrajectoryDataset  # noqa: E402
from mosaic_collect.errors import (  # noqa: E402
    ClosedError,
    CorruptStoreError,
    InputError,
    StoreMismatchError,
)
from tests import helpers  # noqa: E402
from tests.export import stores  # noqa: E402
from tests.sampling.common import NUMBERED, add, every_third, numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
POOLS = (2, 3, 5, 9, 1000)  # tiles


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("batch_size", [1, 5, 64, 1000])
def test_every_valid_pair_once(store: str, batch_size: int, tiles: int) -> None:
    valid = numbered(store, 23, 7, 4, every_third)
    loader = BatchLoader(store, batch_size, shuffle_buffer_mb=tiles * tile_mb(store))
    orders = []
    for _ in range(3):
        batches = [b["number"].clone() for b in loader]
        assert len(batches) == len(loader) == -(-len(valid) // batch_size)
        assert all(len(b) == batch_size for b in batches[:-1])
        orders.append(torch.cat(batches).numpy())
        assert np.array_equal(np.sort(orders[-1]), valid)
    assert loader.num_pairs == len(valid)
    assert not np.array_equal(orders[0], orders[1]), "two epochs of one order"


def test_tiles_come_in_another_order_in_each_epoch(store: str) -> None:
    """Of a pool that draws from one at a time, and the next one is no neighbour."""
    numbered(store, 48, 7, 4)
    loader = BatchLoader(store, 1, shuffle_buffer_mb=2 * tile_mb(store))
    orders = {tuple(dict.fromkeys((numbers(loader) // 28).tolist())) for _ in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_share_an_epoch_and_have_equally_many_batches(
    store: str, ranks: int, tiles: int
) -> None:
    valid = numbered(store, 20, 7, 4, every_third)
    for batch_size in (2, 4, len(valid) // ranks):
        options = {"shuffle_buffer_mb": tiles * tile_mb(store), "world_size": ranks}
        loaders = [BatchLoader(store, batch_size, rank=r, **options) for r in range(ranks)]
        epochs = [[b["number"].clone() for b in s] for s in loaders]
        assert {len(e) for e in epochs} == {len(loaders[0])}
        assert all(len(batch) for epoch in epochs for batch in epoch)
        got = np.sort(torch.cat([b for e in epochs for b in e]).numpy())
        assert np.array_equal(got, valid)


@pytest.mark.parametrize("tiles", POOLS)
def test_drop_last_leaves_out_less_than_a_batch_a_rank(store: str, tiles: int) -> None:
    valid = numbered(store, 20, 7, 4, every_third)
    left = Counter(valid.tolist())
    for rank in range(2):
        loader = BatchLoader(
            store,
            9,
            drop_last=True,
            rank=rank,
            world_size=2,
            shuffle_buffer_mb=tiles * tile_mb(store),
        )
        batches = [b["number"].clone() for b in loader]
        assert [len(b) for b in batches] == [9] * len(loader)
        left.subtract(torch.cat(batches).tolist())
    assert set(left.values()) <= {0, 1}
    assert sum(left.values()) < 2 * 9 + 1


def test_threads_change_nothing(store: str) -> None:
    numbered(store, 23, 7, 4, every_third)
    for tiles in (3, 9):
        options = {"shuffle_buffer_mb": tiles * tile_mb(store), "seed": 5}
        orders = [numbers(BatchLoader(store, 6, threads=t, **options)) for t in (1, 2, 5)]
        assert all(np.array_equal(orders[0], o) for o in orders[1:])


def test_a_seed_is_another_order_and_the_same_one_the_same(store: str) -> None:
    numbered(store, 12, 7, 4)
    one, same, other = (numbers(BatchLoader(store, 6, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("stopped", [0, 1, 5, 17, 18])
def test_a_state_goes_on_with_the_same_batches(store: str, stopped: int, tiles: int) -> None:
    numbered(store, 23, 7, 4, every_third)
    options = {"shuffle_buffer_mb": tiles * tile_mb(store), "seed": 3}
    loader = BatchLoader(store, 6, **options)
    numbers(loader)  # the second epoch is the one that is interrupted
    batches = [b["number"].tolist() for b in loader]
    other = BatchLoader(store, 6, **options)
    other.set_epoch(1)
    for _ in zip(range(stopped), other, strict=False):
        pass
    if stopped == 0:
        other.set_epoch(1)
    resumed = BatchLoader(store, 6, **options)
    resumed.load_state_dict(other.state_dict())
    assert [b["number"].tolist() for b in resumed] == batches[stopped:]
    assert np.array_equal(numbers(resumed), numbers(loader)), "the epoch behind"


def test_a_state_is_plain_and_held_against_the_loader(store: str) -> None:
    numbered(store, 12, 7, 4)
    state = json.loads(json.dumps(BatchLoader(store, 6, seed=1).state_dict()))
    BatchLoader(store, 6, seed=1).load_state_dict(state)
    with pytest.raises(InputError, match=r"seed: the state has 1, this loader 2"):
        BatchLoader(store, 6, seed=2).load_state_dict(state)
    numbered(f"{store}.other", 12, 7, 4)
    with pytest.raises(InputError, match=r"stores: the state has \['\w{32}'\], this loader"):
        BatchLoader(f"{store}.other", 6, seed=1).load_state_dict(state)
    loader = BatchLoader(store, 6, seed=1)
    broken = [{"version": 0}, {**state, "position": {"x": 1}}, "state"]
    for other in (*broken, {k: v for k, v in state.items() if k != "committed"}):
        with pytest.raises(InputError, match="expected what"):
            loader.load_state_dict(other)
    with pytest.raises(InputError, match="batch_size: the state has None, this loader 6"):
        loader.load_state_dict({**state, "options": {}})


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        ({"steps": slice(0, 4)}, {"steps": slice(4, 8)}, "steps: the state has '0:4:1', this"),
        ({"steps": slice(4)}, {"steps": range(4)}, None),
        ({"steps": range(4)}, {"steps": slice(np.int64(0), np.int64(4))}, None),
        ({"trajectories": [1]}, {"trajectories": [2]}, "trajectories: the state has"),
        ({"trajectories": [1, 2]}, {"trajectories": {2, 1}}, None),
        ({"shuffle_buffer_mb": np.int64(1)}, {"shuffle_buffer_mb": 1.0}, None),
        ({"reuse": np.float32(2)}, {"reuse": 2}, None),
    ],
)
def test_a_state_is_of_the_same_pairs(store: str, mine: Any, other: Any, words: str) -> None:
    numbered(store, 12, 7, 4)
    state = json.loads(json.dumps(BatchLoader(store, 6, **mine).state_dict()))
    loader = BatchLoader(store, 6, **other)
    if words is None:
        loader.load_state_dict(state)
        return
    with pytest.raises(InputError, match=words):
        loader.load_state_dict(state)


def test_a_state_that_is_refused_changes_nothing(store: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 4)
        writer.commit()
        early = BatchLoader(store, 6, seed=1).state_dict()
        add(writer, 4, 4)
    loader = BatchLoader(store, 6)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(InputError, match="seed"):
        loader.load_state_dict(early)
    assert loader.committed == [8]
    assert len(list(iterator)) == 9


def test_iterables_are_gone_through_once(store: str) -> None:
    numbered(store, 12, 7, 4)
    loader = BatchLoader(store, 6, (n for n in ["number"]), trajectories=(i for i in (5, 2, 5)))
    got = torch.cat([batch["number"] for batch in loader])
    assert sorted(got.tolist()) == [n for n in range(84) if n % 7 in (2, 5)]
    assert set(next(iter(BatchLoader(store, 6, "wide")))) == {"wide"}, "one name is no iterable"
    for ids in ({2, 5}, range(2, 6, 3), np.array([2, 5], np.uint8), torch.tensor([5, 2])):
        assert BatchLoader(store, 6, trajectories=ids).num_pairs == 24


def test_a_break_ends_an_epoch_and_another_iteration_the_one_before(store: str) -> None:
    numbered(store, 12, 7, 4)
    loader, other = BatchLoader(store, 6), BatchLoader(store, 6)
    next(iter(loader))
    other.set_epoch(1)
    assert np.array_equal(numbers(loader), numbers(other))
    former, latter = iter(loader), iter(loader)
    next(former)
    next(latter)
    with pytest.raises(ClosedError, match="another one"):
        list(former)
    assert len(list(latter)) == len(loader) - 1


def test_several_stores_and_a_dataset(tmp_path: Any) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    want = [numbered(first, 9, 7, 4), numbered(second, 5, 3, 2, first=100)]
    dataset = TrajectoryDataset(second)
    for tiles in (2, 4, 100):
        loader = BatchLoader([first, dataset], 8, shuffle_buffer_mb=tiles * tile_mb(first))
        assert np.array_equal(np.sort(numbers(loader)), np.concatenate(want))
    helpers.record(tmp_path / "c.zarr", 3)
    with pytest.raises(StoreMismatchError, match="must have the same fields"):
        BatchLoader([first, str(tmp_path / "c.zarr")], 8)
    with pytest.raises(InputError, match="the same store"):
        BatchLoader([first, first], 8)


def test_steps_and_trajectories(store: str) -> None:
    numbered(store, 12, 7, 4)
    want = np.arange(3 * 7, 10 * 7)
    for steps in (slice(3, -2), range(3, 10)):
        assert np.array_equal(np.sort(numbers(BatchLoader(store, 8, steps=steps))), want)
    got = numbers(BatchLoader(store, 8, trajectories=[2, 5]))
    assert np.array_equal(np.sort(got), [n for n in range(84) if n % 7 in (2, 5)])
    stores.flip(f"{store}/wide/c.2.0.0", 5)  # a chunk without a chosen pair is not read
    assert np.array_equal(np.sort(numbers(BatchLoader(store, 8, steps=slice(8)))), np.arange(56))


def test_types_stay_and_batches_are_the_callers_own(store: str) -> None:
    helpers.record(store, 9, schema=helpers.ALL_DTYPES, block_steps=4)
    dataset = TrajectoryDataset(store)
    kept = list(BatchLoader(store, 7))
    for name in dataset.schema.names:
        rows = np.concatenate([b[name].numpy() for b in kept])
        assert rows.dtype == dataset[name].dtype
        assert sorted(map(repr, rows.tolist())) == sorted(
            map(repr, dataset.read(name).reshape(rows.shape).tolist())
        ), "a batch that is held was overwritten"


def test_a_view_of_a_batch_keeps_its_memory(store: str) -> None:
    numbered(store, 40, 7, 4)
    held, copies = [], []
    for batch in BatchLoader(store, 6):
        held.append(batch["wide"][1:3, 2:])
        copies.append(held[-1].clone())
        del batch
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


def test_memory_of_batches_is_used_again(store: str) -> None:
    numbered(store, 40, 7, 4)
    places = set()
    for batch in BatchLoader(store, 6):
        places.add(batch["wide"].data_ptr())
        del batch
    assert len(places) <= 6


def test_batches_that_were_held_and_let_go_give_their_memory_back(store: str) -> None:
    numbered(store, 40, 7, 4)
    tracemalloc.start()  # knows of NumPy's memory
    try:
        stream = iter(BatchLoader(store, 10_000, mode="stream"))
        held = list(islice(stream, 20))
        all_nbytes = sum(t.nbytes for batch in held for t in batch.values())
        before = tracemalloc.get_traced_memory()[0]
        held.clear()
        assert before - tracemalloc.get_traced_memory()[0] > 0.7 * all_nbytes
    finally:
        tracemalloc.stop()


def test_a_batch_larger_than_the_store_is_all_of_it(store: str) -> None:
    numbered(store, 12, 7, 4)
    (batch,) = BatchLoader(store, 10**12)
    assert sorted(batch["number"].tolist()) == list(range(84))


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_a_damaged_chunk_is_an_error_in_the_loop(store: str, mode: str) -> None:
    numbered(store, 23, 7, 4)
    stores.flip(f"{store}/wide/c.3.0.0", 5)
    loader = BatchLoader(store, 6, mode=mode, reuse=1, shuffle_buffer_mb=3 * tile_mb(store))
    for _ in range(2):  # not only the first time
        with pytest.raises(CorruptStoreError, match="wide, block 3"):
            numbers(islice(loader, 1000))
    got = numbers(BatchLoader(store, 6, skip_damaged=True))
    assert 0 < len(got) < 23 * 7
    assert len(set(got.tolist())) == len(got)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number from 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank: expected one of 0\.\.1, got 2"),
        ({"shuffle_buffer_mb": 1e-6}, r"shuffle_buffer_mb: expected at least 0\.000"),
        ({"shuffle_buffer_mb": -1}, "shuffle_buffer_mb: expected a number above 0"),
        ({"mode": "epoch"}, "mode: expected epochs or stream"),
        ({"fields": ["nothing"]}, "nothing"),
        ({"fields": ["valid_mask"]}, "expected at least one"),
        ({"fields": ["number", "valid_mask"]}, "batches hold no valid_mask"),
        ({"steps": slice(5, 5)}, "no pair is left"),
        ({"steps": range(9, 3, -1)}, "steps: expected a slice of steps, or a range, that goes"),
        ({"steps": slice(9, 3, -1)}, "steps: expected a slice of steps, or a range, that goes"),
        ({"steps": slice(0, 9, 0)}, "steps: expected a slice of steps, or a range, that goes"),
        ({"steps": slice(1.5, 9)}, "steps: expected a slice of steps, or a range, that goes"),
        ({"trajectories": "all"}, "trajectories: expected ids"),
        ({"trajectories": [2**63]}, "trajectories: expected ids"),
        ({"trajectories": [2**65]}, "trajectories: expected ids"),
        ({"trajectories": [0.5]}, "trajectories: expected ids"),
        ({"trajectories": 3}, "trajectories: expected ids"),
        ({"fields": 3}, "fields: expected names"),
        ({"world_size": 1000, "rank": 5}, "a rank would have none"),
        ({"world_size": 5, "batch_size": 1}, "84 pairs for 5 ranks in batches of 1: a rank would"),
        ({"batch_size": 1000, "drop_last": True}, "with drop_last"),
        ({"exclude_failed": True}, "has no field trajectory_end"),
        ({"threads": 0}, "threads: expected a whole number from 1"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(store: str, options: Any, words: str) -> None:
    numbered(store, 12, 7, 4)
    with pytest.raises(InputError, match=words):
        BatchLoader(store, **{"batch_size": 6, **options})


def test_a_buffer_holds_two_tiles_or_all(store: str) -> None:
    numbered(store, 12, 7, 4)
    with pytest.raises(InputError, match=r"shuffle_buffer_mb: expected at least 0\.000448"):
        BatchLoader(store, 6, shuffle_buffer_mb=1.9 * tile_mb(store))
    one = f"{store}.one"
    numbered(one, 4, 1, 4)
    assert len(BatchLoader(one, 3, shuffle_buffer_mb=1.1 * tile_mb(one))) == 2


def test_an_epoch_is_a_whole_number(store: str) -> None:
    numbered(store, 12, 7, 4)
    loader = BatchLoader(store, 6)
    for epoch in (-1, 1.5, "2", True):
        with pytest.raises(InputError, match="epoch: expected a whole number from 0"):
            loader.set_epoch(epoch)
    loader.set_epoch(np.int64(3))
    assert json.loads(json.dumps(loader.state_dict()))["position"]["epoch"] == 3
