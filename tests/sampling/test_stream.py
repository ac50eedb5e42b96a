"""The stream: endless, each pair about so often, the same again from a state."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from mosaic_collect import BatchLoader  # noqa: E402
from mosaic_collect.sampling.tiles import Tiles  # noqa: E402
from tests import helpers  # noqa: E402
from tests.sampling.common import NUMBERED, add, every_third, numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")


def some(loader: BatchLoader, batches: int) -> np.ndarray:
    return numbers(islice(loader, batches))


@pytest.mark.parametrize("tiles", [2, 5, 1000])
@pytest.mark.parametrize("batch_size", [1, 6, 40, 300])
def test_only_valid_pairs_and_whole_batches(store: str, batch_size: int, tiles: int) -> None:
    valid = numbered(store, 23, 7, 4, every_third)
    loader = BatchLoader(store, batch_size, mode="stream", shuffle_buffer_mb=tiles * tile_mb(store))
    batches = [b["number"].clone() for b in islice(loader, 30)]
    assert {len(b) for b in batches} == {batch_size}
    assert np.isin(torch.cat(batches).numpy(), valid).all()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tiles that were decoded."""
    found, load = [], Tiles.load
    monkeypatch.setattr(Tiles, "load", lambda *given: found.append(given[1]) or load(*given))
    return found


@pytest.mark.parametrize("reuse", [1, 4, 2.5])
def test_a_pair_comes_about_so_often_in_each_pass(
    store: str, reuse: float, loads: list[int]
) -> None:
    valid = numbered(store, 24, 7, 4)
    loader = BatchLoader(
        store, 6, mode="stream", reuse=reuse, shuffle_buffer_mb=6 * tile_mb(store), seed=2
    )
    passes = 12
    count = int(passes * reuse * len(valid)) // 6
    times = np.bincount(some(loader, count), minlength=len(valid))
    assert times.min() > 0.3 * passes * reuse, "a pair was hardly ever drawn"
    assert times.max() < 2 * passes * reuse
    pairs_of_a_tile = len(valid) / len(set(loads))
    assert count * 6 / len(loads) == pytest.approx(reuse * pairs_of_a_tile, rel=0.1)


def test_without_replacement_a_batch_is_of_distinct_pairs(store: str) -> None:
    numbered(store, 24, 7, 4)
    for batch in islice(BatchLoader(store, 90, mode="stream"), 5):
        assert len(set(batch["number"].tolist())) == 90
    (batch,) = islice(BatchLoader(store, 400, mode="stream"), 1)
    times = np.bincount(batch["number"], minlength=168)
    assert set(times) == {2, 3}, "no pair again before every pair came"
    (batch,) = islice(BatchLoader(store, 90, mode="stream", replace=True), 1)
    assert len(set(batch["number"].tolist())) < 90


@pytest.mark.parametrize("tiles", [5, 9, 13])
def test_a_tile_twice_in_the_pools_part_of_the_row_counts_once(store: str, tiles: int) -> None:
    numbered(store, 24, 7, 4)
    loader = BatchLoader(
        store, 12, mode="stream", reuse=1, shuffle_buffer_mb=2 * tiles * tile_mb(store)
    )
    for batch in islice(loader, 300):
        assert len(set(batch["number"].tolist())) == 12


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_every_rank_draws_from_all_of_a_store_that_fits(store: str, world_size: int) -> None:
    """And equally often from each pair: chi-squared, in standard deviations of true draws."""
    numbered(store, 24, 7, 4)
    first = set()
    for rank in range(world_size):
        loader = BatchLoader(
            store, 168, mode="stream", rank=rank, world_size=world_size, replace=True
        )
        drawn = some(loader, 20)
        first.add(tuple(drawn[:168]))
        times = np.bincount(drawn, minlength=168)
        assert (np.square(times - 20).sum() / 20 - 167) / np.sqrt(2 * 167) < 4.5
    assert len(first) == world_size, "two ranks draw the same"


def test_what_was_drawn_while_all_fitted_is_not_owed_when_it_fits_no_more(
    store: str, loads: list[int]
) -> None:
    def of_the_next(stream: Any) -> int:
        loads.clear()
        some(stream, 100)
        return len(loads)

    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 12)
        writer.commit()
        options = {"mode": "stream", "shuffle_buffer_mb": 30 * tile_mb(store)}
        loader = BatchLoader(store, 6, **options)
        some(loader, 2000)
        add(writer, 12, 200)
        writer.commit()
        loader.refresh()
        assert of_the_next(loader) < 1.5 * of_the_next(BatchLoader(store, 6, **options))


def test_threads_change_nothing_and_ranks_draw_different_pairs(store: str) -> None:
    numbered(store, 23, 7, 4)
    options = {"mode": "stream", "shuffle_buffer_mb": 5 * tile_mb(store)}
    one, other = (some(BatchLoader(store, 6, threads=t, **options), 60) for t in (1, 4))
    assert np.array_equal(one, other)
    ranks = [some(BatchLoader(store, 6, rank=r, world_size=2, **options), 60) for r in (0, 1)]
    assert not np.array_equal(*ranks)


@pytest.mark.parametrize("tiles", [2, 5, 1000])
@pytest.mark.parametrize("stopped", [0, 1, 37])
def test_a_state_goes_on_with_the_same_batches(store: str, stopped: int, tiles: int) -> None:
    numbered(store, 23, 7, 4, every_third)
    options = {"mode": "stream", "shuffle_buffer_mb": tiles * tile_mb(store), "reuse": 1.5}
    whole = some(BatchLoader(store, 6, **options), 60)
    first = BatchLoader(store, 6, **options)
    got = some(first, stopped)
    resumed = BatchLoader(store, 6, **options)
    resumed.load_state_dict(first.state_dict())
    assert np.array_equal(np.concatenate([got, some(resumed, 60 - stopped)]), whole)


def test_another_iteration_goes_on(store: str) -> None:
    numbered(store, 23, 7, 4)
    options = {"mode": "stream", "shuffle_buffer_mb": 5 * tile_mb(store)}
    loader = BatchLoader(store, 6, **options)
    got = np.concatenate([some(loader, 20), some(loader, 20)])
    assert np.array_equal(got, some(BatchLoader(store, 6, **options), 40))


def test_it_has_no_length(store: str) -> None:
    numbered(store, 4, 7, 4)
    with pytest.raises(TypeError, match="no length"):
        len(BatchLoader(store, 6, mode="stream"))
