"""Epochs: every pair once, over all ranks and workers, whatever the pool."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a sampler needs")

from mosaic_collect import Sampler, TrajectoryDataset, export_npy  # noqa: E402
from mosaic_collect.errors import (  # noqa: E402
    ClosedError,
    CorruptStoreError,
    InputError,
    StoreMismatchError,
)
from tests import helpers  # noqa: E402
from tests.export import stores  # noqa: E402
from tests.sampling.common import NUMBERED, add, numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
POOLS = (2, 3, 5, 9, 1000)  # tiles


def every_third(step: int) -> np.ndarray:
    return (np.arange(7) + step) % 3 != 1


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("batch_size", [1, 5, 64, 1000])
def test_every_valid_pair_once(store: str, batch_size: int, tiles: int) -> None:
    valid = numbered(store, 23, 7, 4, every_third)
    sampler = Sampler(store, batch_size, pool_mb=tiles * tile_mb(store))
    orders = []
    for _ in range(3):
        batches = [b["number"].clone() for b in sampler]
        assert len(batches) == len(sampler) == -(-len(valid) // batch_size)
        assert all(len(b) == batch_size for b in batches[:-1])
        orders.append(torch.cat(batches).numpy())
        assert np.array_equal(np.sort(orders[-1]), valid)
    assert sampler.num_pairs == len(valid)
    assert not np.array_equal(orders[0], orders[1]), "two epochs of one order"


def test_tiles_come_in_another_order_in_each_epoch(store: str) -> None:
    """Of a pool that draws from one at a time, and the next one is no neighbour."""
    numbered(store, 48, 7, 4)
    sampler = Sampler(store, 1, pool_mb=2 * tile_mb(store))
    orders = {tuple(dict.fromkeys((numbers(sampler) // 28).tolist())) for _ in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_share_an_epoch_and_have_equally_many_batches(
    store: str, ranks: int, tiles: int
) -> None:
    valid = numbered(store, 20, 7, 4, every_third)
    for batch_size in (2, 4, len(valid) // ranks):
        options = {"pool_mb": tiles * tile_mb(store), "world_size": ranks}
        samplers = [Sampler(store, batch_size, rank=r, **options) for r in range(ranks)]
        epochs = [[b["number"].clone() for b in s] for s in samplers]
        assert {len(e) for e in epochs} == {len(samplers[0])}
        got = np.sort(torch.cat([b for e in epochs for b in e]).numpy())
        assert np.array_equal(got, valid)


@pytest.mark.parametrize("tiles", POOLS)
def test_drop_last_leaves_out_less_than_a_batch_a_rank(store: str, tiles: int) -> None:
    valid = numbered(store, 20, 7, 4, every_third)
    left = Counter(valid.tolist())
    for rank in range(2):
        sampler = Sampler(
            store, 9, drop_last=True, rank=rank, world_size=2, pool_mb=tiles * tile_mb(store)
        )
        batches = [b["number"].clone() for b in sampler]
        assert [len(b) for b in batches] == [9] * len(sampler)
        left.subtract(torch.cat(batches).tolist())
    assert set(left.values()) <= {0, 1}
    assert sum(left.values()) < 2 * 9 + 1


def test_threads_change_nothing(store: str) -> None:
    numbered(store, 23, 7, 4, every_third)
    for tiles in (3, 9):
        options = {"pool_mb": tiles * tile_mb(store), "seed": 5}
        orders = [numbers(Sampler(store, 6, threads=t, **options)) for t in (1, 2, 5)]
        assert all(np.array_equal(orders[0], o) for o in orders[1:])


def test_a_seed_is_another_order_and_the_same_one_the_same(store: str) -> None:
    numbered(store, 12, 7, 4)
    one, same, other = (numbers(Sampler(store, 6, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("tiles", POOLS)
@pytest.mark.parametrize("stopped", [0, 1, 5, 17, 18])
def test_a_state_goes_on_with_the_same_batches(store: str, stopped: int, tiles: int) -> None:
    numbered(store, 23, 7, 4, every_third)
    options = {"pool_mb": tiles * tile_mb(store), "seed": 3}
    sampler = Sampler(store, 6, **options)
    numbers(sampler)  # the second epoch is the one that is interrupted
    batches = [b["number"].tolist() for b in sampler]
    other = Sampler(store, 6, **options)
    other.set_epoch(1)
    for _ in zip(range(stopped), other, strict=False):
        pass
    if stopped == 0:
        other.set_epoch(1)
    resumed = Sampler(store, 6, **options)
    resumed.load_state_dict(other.state_dict())
    assert [b["number"].tolist() for b in resumed] == batches[stopped:]
    assert np.array_equal(numbers(resumed), numbers(sampler)), "the epoch behind"


def test_a_state_is_plain_and_held_against_the_sampler(store: str) -> None:
    numbered(store, 12, 7, 4)
    state = json.loads(json.dumps(Sampler(store, 6, seed=1).state_dict()))
    Sampler(store, 6, seed=1).load_state_dict(state)
    with pytest.raises(InputError, match=r"seed: the state has 1, this sampler 2"):
        Sampler(store, 6, seed=2).load_state_dict(state)
    numbered(f"{store}.other", 12, 7, 4)
    with pytest.raises(InputError, match=r"stores: the state has \['\w{32}'\], this sampler"):
        Sampler(f"{store}.other", 6, seed=1).load_state_dict(state)
    sampler = Sampler(store, 6, seed=1)
    broken = [{"version": 0}, {**state, "position": {"x": 1}}, "state"]
    for other in (*broken, {k: v for k, v in state.items() if k != "committed"}):
        with pytest.raises(InputError, match="expected what"):
            sampler.load_state_dict(other)
    with pytest.raises(InputError, match="batch_size: the state has None, this sampler 6"):
        sampler.load_state_dict({**state, "options": {}})


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        ({"steps": slice(0, 4)}, {"steps": slice(4, 8)}, "steps: the state has '0:4:1', this"),
        ({"steps": slice(4)}, {"steps": range(4)}, None),
        ({"steps": range(4)}, {"steps": slice(np.int64(0), np.int64(4))}, None),
        ({"trajectories": [1]}, {"trajectories": [2]}, "trajectories: the state has"),
        ({"trajectories": [1, 2]}, {"trajectories": {2, 1}}, None),
        ({"pool_mb": np.int64(1)}, {"pool_mb": 1.0}, None),
        ({"uses": np.float32(2)}, {"uses": 2}, None),
    ],
)
def test_a_state_is_of_the_same_pairs(store: str, mine: Any, other: Any, words: str) -> None:
    numbered(store, 12, 7, 4)
    state = json.loads(json.dumps(Sampler(store, 6, **mine).state_dict()))
    sampler = Sampler(store, 6, **other)
    if words is None:
        sampler.load_state_dict(state)
        return
    with pytest.raises(InputError, match=words):
        sampler.load_state_dict(state)


def test_a_state_that_is_refused_changes_nothing(store: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 4)
        writer.commit()
        early = Sampler(store, 6, seed=1).state_dict()
        add(writer, 4, 4)
    sampler = Sampler(store, 6)
    iterator = iter(sampler)
    next(iterator)
    with pytest.raises(InputError, match="seed"):
        sampler.load_state_dict(early)
    assert sampler.committed == [8]
    assert len(list(iterator)) == 9


def test_iterables_are_gone_through_once(store: str) -> None:
    numbered(store, 12, 7, 4)
    sampler = Sampler(store, 6, (n for n in ["number"]), trajectories=(i for i in (5, 2, 5)))
    got = torch.cat([batch["number"] for batch in sampler])
    assert sorted(got.tolist()) == [n for n in range(84) if n % 7 in (2, 5)]
    for ids in ({2, 5}, range(2, 6, 3), np.array([2, 5], np.uint8), torch.tensor([5, 2])):
        assert Sampler(store, 6, trajectories=ids).num_pairs == 24


def test_a_break_ends_an_epoch_and_another_iteration_the_one_before(store: str) -> None:
    numbered(store, 12, 7, 4)
    sampler, other = Sampler(store, 6), Sampler(store, 6)
    next(iter(sampler))
    other.set_epoch(1)
    assert np.array_equal(numbers(sampler), numbers(other))
    former, latter = iter(sampler), iter(sampler)
    next(former)
    next(latter)
    with pytest.raises(ClosedError, match="another one"):
        list(former)
    assert len(list(latter)) == len(sampler) - 1


def test_the_pairs_are_those_of_an_export(store: str, npy: str) -> None:
    """Valid, finite, and of no trajectory that is left out."""

    def edit(step: int, rows: Any) -> None:
        stores.nan_at("actions", (2, 1), (9, 3))(step, rows)
        stores.nan_at("student_observations", (4, 0), value=np.inf)(step, rows)

    stores.write(
        store,
        11,
        schema=stores.STUDENT.with_ends(),
        masks=stores.some_masks(4),
        edit=edit,
        ends={6: [2]},
        falls={4: [0, 3]},
    )
    names = ["student_observations", "actions"]
    for filters in ({}, {"exclude_failed": True}, {"exclude_truncated": True}):
        export_npy(store, npy, fields=names, **filters)
        data = stores.load(npy)
        want = np.concatenate([data[n][:, 0] for n in names], axis=1)
        batches = [
            torch.cat([b[n] for n in names], dim=1) for b in Sampler(store, 4, names, **filters)
        ]
        assert sorted(torch.cat(batches).tolist()) == sorted(want.tolist())
    assert set(next(iter(Sampler(store, 4, "actions")))) == {"actions"}


def test_several_stores_and_a_dataset(tmp_path: Any) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    want = [numbered(first, 9, 7, 4), numbered(second, 5, 3, 2, first=100)]
    dataset = TrajectoryDataset(second)
    for tiles in (2, 4, 100):
        sampler = Sampler([first, dataset], 8, pool_mb=tiles * tile_mb(first))
        assert np.array_equal(np.sort(numbers(sampler)), np.concatenate(want))
    helpers.record(tmp_path / "c.zarr", 3)
    with pytest.raises(StoreMismatchError, match="must have the same fields"):
        Sampler([first, str(tmp_path / "c.zarr")], 8)
    with pytest.raises(InputError, match="the same store"):
        Sampler([first, first], 8)


def test_steps_and_trajectories(store: str) -> None:
    numbered(store, 12, 7, 4)
    want = np.arange(3 * 7, 10 * 7)
    for steps in (slice(3, -2), range(3, 10)):
        assert np.array_equal(np.sort(numbers(Sampler(store, 8, steps=steps))), want)
    got = numbers(Sampler(store, 8, trajectories=[2, 5]))
    assert np.array_equal(np.sort(got), [n for n in range(84) if n % 7 in (2, 5)])


def test_types_stay_and_batches_are_the_callers_own(store: str) -> None:
    helpers.record(store, 9, schema=helpers.ALL_DTYPES, block_steps=4)
    dataset = TrajectoryDataset(store)
    kept = list(Sampler(store, 7))
    for name in dataset.schema.names:
        rows = np.concatenate([b[name].numpy() for b in kept])
        assert rows.dtype == dataset[name].dtype
        assert sorted(map(repr, rows.tolist())) == sorted(
            map(repr, dataset.read(name).reshape(rows.shape).tolist())
        ), "a batch that is held was overwritten"


def test_a_view_of_a_batch_keeps_its_memory(store: str) -> None:
    numbered(store, 40, 7, 4)
    held, copies = [], []
    for batch in Sampler(store, 6):
        held.append(batch["wide"][1:3, 2:])
        copies.append(held[-1].clone())
        del batch
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


def test_memory_of_batches_is_used_again(store: str) -> None:
    numbered(store, 40, 7, 4)
    places = set()
    for batch in Sampler(store, 6):
        places.add(batch["wide"].data_ptr())
        del batch
    assert len(places) <= 6


def test_batches_that_were_held_and_let_go_give_their_memory_back(store: str) -> None:
    numbered(store, 40, 7, 4)
    tracemalloc.start()  # knows of NumPy's memory
    try:
        stream = iter(Sampler(store, 10_000, mode="stream"))
        held = list(islice(stream, 20))
        all_nbytes = sum(t.nbytes for batch in held for t in batch.values())
        before = tracemalloc.get_traced_memory()[0]
        held.clear()
        assert before - tracemalloc.get_traced_memory()[0] > 0.7 * all_nbytes
    finally:
        tracemalloc.stop()


def test_a_batch_larger_than_the_store_is_all_of_it(store: str) -> None:
    numbered(store, 12, 7, 4)
    (batch,) = Sampler(store, 10**12)
    assert sorted(batch["number"].tolist()) == list(range(84))


def test_a_damaged_chunk_is_an_error_in_the_loop(store: str) -> None:
    numbered(store, 23, 7, 4)
    stores.flip(f"{store}/wide/c.3.0.0", 5)
    sampler = Sampler(store, 6, pool_mb=3 * tile_mb(store))
    for _ in range(2):  # not only the first time
        with pytest.raises(CorruptStoreError, match="wide, block 3"):
            list(sampler)
    got = numbers(Sampler(store, 6, skip_damaged=True))
    assert 0 < len(got) < 23 * 7
    assert len(set(got.tolist())) == len(got)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number from 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank: expected one of 0\.\.1, got 2"),
        ({"pool_mb": 1e-6}, r"pool_mb: expected at least 0\.000"),
        ({"pool_mb": -1}, "pool_mb: expected a number above 0"),
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
        Sampler(store, **{"batch_size": 6, **options})


def test_an_epoch_is_a_whole_number(store: str) -> None:
    numbered(store, 12, 7, 4)
    sampler = Sampler(store, 6)
    for epoch in (-1, 1.5, "2", True):
        with pytest.raises(InputError, match="epoch: expected a whole number from 0"):
            sampler.set_epoch(epoch)
    sampler.set_epoch(np.int64(3))
    assert json.loads(json.dumps(sampler.state_dict()))["position"]["epoch"] == 3
