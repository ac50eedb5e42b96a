"""Both modes against true draws: every pair equally likely at every place; a biased one is seen.

Each seed gives one independent value a place, so counts over seeds are those of true draws and
their chi-squared statistic tells how far they are from it, in standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from mosaic_collect.sampling import order  # noqa: E402
from mosaic_collect.sampling.options import LoaderOptions  # noqa: E402
from mosaic_collect.sampling.order import (  # noqa: E402
    Position,
    rest_of_epoch,
    rest_of_stream,
    rng_for,
)
from mosaic_collect.sampling.pool import Pool  # noqa: E402

TILES, SIZE, BATCH = 12, 5, 6
PAIRS = TILES * SIZE
COUNTS = np.full(TILES, SIZE)
SEEDS = 1500


class NumberedMemory:
    """A pair is known by its number; nothing is decoded."""

    def __init__(self, slots: int) -> None:
        self._tiles = [-1] * slots

    def load(self, number: int, slot: int) -> np.ndarray:
        self._tiles[slot] = number
        return np.arange(SIZE, dtype=np.int32)

    def empty(self, size: int) -> Any:
        return {"number": torch.empty(size, dtype=torch.int64)}

    def gather(self, codes: np.ndarray, batch: Any, first: int) -> list[Any]:
        tiles = np.array(self._tiles)[codes // SIZE]
        batch["number"].numpy()[first : first + len(codes)] = tiles * SIZE + codes % SIZE
        return []

    def close(self) -> None:
        pass


@contextmanager
def pool_of(slots: int) -> Iterator[Pool]:
    tiles = SimpleNamespace(
        counts=COUNTS,
        num_pairs=PAIRS,
        rows=SIZE,
        length=1,
        slots=slots,
        active=TILES if slots == TILES else slots - 1,
    )
    made = Pool(NumberedMemory(slots), tiles, threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[5, TILES], ids=["a pool of some", "a pool of all"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with pool_of(request.param) as made:
        yield made


def epoch(pool: Pool, seed: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """One epoch's pairs in order; or a rank's part of them."""
    pool.release_all()
    options = LoaderOptions(batch_size=BATCH, seed=seed, rank=rank, world_size=world_size)
    made = rest_of_epoch(pool, options, Position())
    return np.concatenate([b["number"].numpy() for b, *_ in made])


def draws(pool: Pool, seed: int, replace: bool = True) -> np.ndarray:
    """A stream's first pairs, as many as an epoch's."""
    pool.release_all()
    options = LoaderOptions(batch_size=BATCH, seed=seed, reuse=1, replace=replace)
    made = rest_of_stream(pool, options, Position())
    return np.concatenate([b["number"].numpy() for b, *_ in islice(made, PAIRS // BATCH)])


def away(counts: np.ndarray) -> float:
    """How far counts are from even ones, in standard deviations of true draws."""
    even = counts.sum() / counts.size
    chi2 = float(np.square(counts - even).sum() / even)
    return (chi2 - (counts.size - 1)) / np.sqrt(2 * (counts.size - 1))


def worst(pool: Pool, draw: Callable[[Pool, int], np.ndarray], seeds: int = SEEDS) -> float:
    """Over first, second, middle and last place: how far the pairs that come there are."""
    came = np.stack([draw(pool, seed)[[0, 1, PAIRS // 2, -1]] for seed in range(seeds)])
    return max(away(np.bincount(column, minlength=PAIRS)) for column in came.T)


def unlike(pool: Pool, draw: Callable[[Pool, int], np.ndarray], seeds: int = SEEDS) -> float:
    """How far the pair that comes too often, or too seldom, is from the mean of all."""
    times = np.stack([np.bincount(draw(pool, s), minlength=PAIRS) for s in range(seeds)])
    error = times.std(axis=0) / np.sqrt(seeds)
    return float((np.abs(times.mean(axis=0) - times.mean()) / np.maximum(error, 1e-9)).max())


def singly(pool: Pool, seed: int) -> np.ndarray:
    """Draws without replacement."""
    return draws(pool, seed, replace=False)


def of_a_rank(pool: Pool, seed: int) -> np.ndarray:
    """One whose part of the epoch, the pairs 6..9, lies within a tile."""
    return epoch(pool, seed, 2, 20)


@pytest.mark.parametrize("draw", [epoch, draws, singly])
def test_every_pair_is_equally_likely_at_every_place(pool: Pool, draw: Any) -> None:
    assert worst(pool, draw) < 4.5


@pytest.mark.parametrize("draw", [draws, singly, of_a_rank])
def test_every_pair_comes_equally_often(pool: Pool, draw: Any) -> None:
    assert unlike(pool, draw) < 4.5


def test_batches_of_a_stream_are_drawn_each_for_itself() -> None:
    """A pair is as likely behind itself as behind any other."""
    with pool_of(TILES) as made:
        came = np.stack([draws(made, seed) for seed in range(SEEDS)])
    again = came[:, BATCH:] == came[:, :-BATCH]
    assert again.mean() == pytest.approx(1 / PAIRS, rel=4.5 / np.sqrt(again.size / PAIRS))


def test_an_epoch_of_a_pool_of_all_is_a_true_shuffle() -> None:
    """Not only each place for itself: which two pairs come one behind the other, too."""
    with pool_of(TILES) as made:
        came = np.stack([epoch(made, seed) for seed in range(SEEDS)]) // SIZE
    same = (came[:, 1:] == came[:, :-1]).mean(axis=1)
    expected = (SIZE - 1) / (PAIRS - 1)
    assert abs(same.mean() - expected) < 4.5 * same.std() / np.sqrt(SEEDS)


def test_a_smaller_pool_mixes_as_many_tiles_as_it_says() -> None:
    """Two pairs of a tile are closer than by chance, by the factor of tiles left out."""
    with pool_of(5) as made:
        came = np.stack([epoch(made, seed) for seed in range(SEEDS)]) // SIZE
    middle = came[:, 3 * BATCH : -3 * BATCH]
    same = (middle[:, 1:] == middle[:, :-1]).mean()
    assert (SIZE - 1) / (PAIRS - 1) < same < 1 / 4 + 0.05


def of(purpose: int, kind: Callable[[np.random.Generator], Any]) -> Callable[..., Any]:
    """Random numbers that are none, for one purpose."""
    return lambda seed, what, *place: (
        kind(rng_for(seed, what, *place)) if what == purpose else rng_for(seed, what, *place)
    )


def unshuffled(random: np.random.Generator) -> Any:
    return SimpleNamespace(
        permutation=lambda of: np.arange(of) if np.ndim(of) == 0 else of, shuffle=lambda of: None
    )


def late(random: np.random.Generator) -> Any:
    """Draws that take the second pair of a tile where they should take the first."""

    def integers(stop: int, size: int) -> np.ndarray:
        drawn = random.integers(stop, size=size)
        return drawn + (drawn % SIZE == 0)

    return SimpleNamespace(integers=integers)


def without_the_last(random: np.random.Generator) -> Any:
    """Draws that never take the last pair."""
    return SimpleNamespace(
        integers=lambda stop, size: random.integers(stop - 1, size=size),
        choice=lambda stop, size, replace: random.choice(stop - 1, size, replace=replace),
    )


@pytest.mark.parametrize("purpose", [order.TILES, order.PAIRS])
def test_a_biased_epoch_is_seen(monkeypatch: pytest.MonkeyPatch, purpose: int) -> None:
    monkeypatch.setattr(order, "rng_for", of(purpose, unshuffled))
    with pool_of(5) as made:
        assert worst(made, epoch, 600) > 9


def test_an_epoch_that_is_not_mixed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place for itself is uniform: what comes one behind the other is not."""
    monkeypatch.setattr(order, "rng_for", of(order.MIX, unshuffled))
    with pytest.raises(AssertionError):
        test_an_epoch_of_a_pool_of_all_is_a_true_shuffle()


@pytest.mark.parametrize(
    ("purpose", "kind"), [(order.DRAW, late), (order.PASS, unshuffled)], ids=["draws", "tiles"]
)
def test_a_biased_stream_is_seen(monkeypatch: pytest.MonkeyPatch, purpose: int, kind: Any) -> None:
    slots = TILES if purpose == order.DRAW else 5  # tiles of a pool of all need no order
    monkeypatch.setattr(order, "rng_for", of(purpose, kind))
    with pool_of(slots) as made:
        assert worst(made, draws) > 9


@pytest.mark.parametrize("draw", [draws, singly])
def test_a_pair_that_never_comes_is_seen(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    monkeypatch.setattr(order, "rng_for", of(order.DRAW, without_the_last))
    with pool_of(TILES) as made:
        assert unlike(made, draw, 600) > 9


def test_batches_that_are_all_the_same_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    same = lambda seed, what, *place: rng_for(seed, what, *place[:-1])  # noqa: E731
    monkeypatch.setattr(order, "rng_for", same)
    with pytest.raises(AssertionError):
        test_batches_of_a_stream_are_drawn_each_for_itself()


def test_a_rank_whose_part_of_a_tile_is_not_drawn_is_seen(
    monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    monkeypatch.setattr(order, "rng_for", of(order.PAIRS, unshuffled))
    assert unlike(pool, of_a_rank, 600) > 9
