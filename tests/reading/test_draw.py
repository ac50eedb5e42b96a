"""``max_pairs``: just so many, uniform, the same for the same seed, and nested."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import export_npy
from mosaic_collect.reading.selection import Draw
from tests.export import stores


def drawn_pairs(store: str, npy: str, k: int, seed: int = 0) -> set[tuple[float, ...]]:
    """Pairs of a draw, known by their identifiable observations."""
    report = export_npy(store, npy, max_pairs=k, seed=seed, fields=["observations"])
    rows = stores.load(npy)["observations"]
    assert rows.shape == (k, 1, 3)
    assert report.num_pairs == k
    return {tuple(row) for row in rows[:, 0].tolist()}


def test_the_rest_is_counted(store: str, npy: str) -> None:
    recorded = stores.write(store, 14, masks=stores.some_masks(4))
    left = export_npy(store, npy, max_pairs=5).left_out
    assert left.not_drawn == recorded["valid_mask"].sum() - 5
    assert left.invalid == (~recorded["valid_mask"]).sum()


def test_numpys_whole_numbers_are_taken(store: str, npy: str) -> None:
    stores.write(store, 6)
    pairs = drawn_pairs(store, npy, np.int64(7), np.uint8(3))
    told = stores.load(npy)["metadata"]["mosaic_collect"]["options"]
    assert (type(told["max_pairs"]), type(told["seed"])) == (int, int)
    assert pairs == drawn_pairs(store, npy, 7, 3)


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_more_than_there_are_are_all(store: str, npy: str, more: int) -> None:
    recorded = stores.write(store, 6)
    report = export_npy(store, npy, max_pairs=24 + more)
    assert report.num_pairs == 24
    assert report.left_out.not_drawn == 0
    stores.assert_compact(npy, recorded, recorded["valid_mask"], stores.MOSAIC_NAMES)


def test_in_time_order_and_rows_of_fields_together(store: str, npy: str) -> None:
    recorded = stores.write(store, 14, masks=stores.some_masks(4), schema=stores.STUDENT)
    export_npy(store, npy, max_pairs=19, seed=3)
    data = stores.load(npy)
    flat = recorded["observations"].reshape(-1, 3)
    at = [int(np.flatnonzero((flat == row).all(axis=1))[0]) for row in data["observations"][:, 0]]
    assert at == sorted(at)
    for name in ("student_observations", "actions", "action_mean"):
        want = recorded[name].reshape(len(flat), -1)[at]
        np.testing.assert_array_equal(data[name][:, 0], want)


def test_only_finite_pairs_are_drawn(store: str, npy: str) -> None:
    edit = stores.nan_at("actions", *((step, 1) for step in range(8)))
    stores.write(store, 8, edit=edit)
    report = export_npy(store, npy, max_pairs=20)
    assert np.isfinite(stores.load(npy)["actions"]).all()
    assert (report.num_pairs, report.left_out.nonfinite, report.left_out.not_drawn) == (20, 8, 4)


def test_a_seed_gives_the_same_bytes(store: str, tmp_path) -> None:
    stores.write(store, 14)
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        export_npy(store, path, max_pairs=20, seed=seed)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    one, other = (stores.load(str(path))["observations"] for path in paths[1:])
    assert not np.array_equal(one, other)


def test_a_larger_draw_contains_the_smaller(store: str, npy: str) -> None:
    recorded = stores.write(store, 14, masks=stores.some_masks(4))
    valid = {tuple(row) for row in recorded["observations"][recorded["valid_mask"]].tolist()}
    assert len(valid) >= 31
    for seed in range(3):
        before: set[tuple[float, ...]] = set()
        for k in (1, 2, 8, 9, 17, 30, 31):
            pairs = drawn_pairs(store, npy, k, seed)
            assert len(pairs) == k, "a pair was drawn twice"
            assert before < pairs <= valid
            before = pairs


def test_uniform_over_pairs() -> None:
    """Chi-square over many seeds: pairs of blocks with few and with many candidates alike."""
    blocks = [np.array([[True, False, True]]), np.ones((2, 3), bool), np.zeros((1, 3), bool)]
    k, seeds = 3, 2000
    hits = np.zeros(8)
    together = 0
    for seed in range(seeds):
        draw = Draw([int(c.sum()) for c in blocks], k, seed)
        drawn = [draw.drawn(b, c)[c] for b, c in enumerate(blocks)]
        row = np.concatenate(drawn)
        assert row.sum() == k
        hits += row
        together += bool(row[0] and row[1])
    want = seeds * k / 8
    # Draws are without replacement, so the hits vary less than the bound for 7 degrees of
    # freedom at 1e-4 assumes.
    assert float(((hits - want) ** 2 / want).sum()) < 29.9
    # Pairs are drawn independently of each other, too: P(both) = k (k - 1) / (8 * 7).
    expected = seeds * 6 / 56
    assert abs(together - expected) < 5 * np.sqrt(expected)


def test_large_draws_find_the_cut() -> None:
    candidates = np.ones((100, 1000), bool)
    for k in (1, 65_536, 99_999, 100_000):
        draw = Draw([100_000] * 2, k, 1)
        assert sum(int(draw.drawn(b, candidates).sum()) for b in range(2)) == k
