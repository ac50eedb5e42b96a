"""Counts of valid pairs and of pairs with NaN or infinity, whatever blocks they fall into."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.counts import all_finite, finite_rows, nonfinite_pairs
from tests.helpers import mask, open_writer, rows

N = 5
BAD = (np.nan, np.inf, -np.inf)


def bad_rows(step: int) -> dict[str, np.ndarray]:
    """Rows with one more bad pair of observations every other step, and two of actions."""
    given = rows(step, N)
    if step % 2:
        given["observations"][step % N, step % 3] = BAD[step % 3]
        given["actions"][step % N] = np.nan  # two bad values, one bad pair
        given["actions"][(step + 1) % N, 0] = np.inf
    return given


def check(store: str, steps: int) -> None:
    """The counts are those of the values read back."""
    dataset = TrajectoryDataset(store)
    assert dataset.num_steps == steps
    for name, count in dataset.state.nonfinite.items():
        bad = ~np.isfinite(dataset.read(name)).all(axis=-1)
        assert count == bad.sum(), name
    assert dataset.state.nonfinite["observations"] == steps // 2
    assert dataset.num_valid == dataset.read("valid_mask").sum()


def add_bad(writer: TrajectoryWriter, *steps: int) -> None:
    for step in steps:
        writer.add_step(**bad_rows(step), valid_mask=mask(step, N))


@pytest.mark.parametrize("steps", range(10))
@pytest.mark.parametrize("every", [None, 1, 2, 3, 4])
def test_counts_whatever_was_committed_when(store: str, steps: int, every: int | None) -> None:
    with open_writer(store, N, block_steps=3) as writer:
        for step in range(steps):
            add_bad(writer, step)
            if every and (step + 1) % every == 0:
                writer.commit()
                check(store, step + 1)
    check(store, steps)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("commit_seconds", [0.0, None])
def test_counts_over_many_chunks_and_padding(store: str, commit_seconds: float | None) -> None:
    """Also where every step commits."""
    with open_writer(store, N, block_steps=4, commit_seconds=commit_seconds) as writer:
        add_bad(writer, *range(10))
    assert max(g.chunks for g in TrajectoryDataset(store).state.grids().values()) > 1
    check(store, 10)


def test_fields_without_floats_have_no_count(store: str) -> None:
    schema = Schema(
        (Field(name="a", dtype="int32"), Field(name="b"), Field(name="c", dtype="float16"))
    )
    with open_writer(store, N, schema) as writer:
        writer.add_step(**rows(0, N, schema))
    assert TrajectoryDataset(store).state.nonfinite == {"b": 0, "c": 0}


def test_large_finite_values_are_finite(store: str) -> None:
    """Though their sum overflows."""
    with open_writer(store, N) as writer:
        given = rows(0, N)
        given["observations"][:] = np.finfo(np.float32).max
        writer.add_step(**given)
    assert TrajectoryDataset(store).state.nonfinite["observations"] == 0


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_each_place_is_seen(bad: float, dtype: str) -> None:
    for at in np.ndindex(2, 3, 2):
        values = np.ones((2, 3, 2), dtype)
        values[at] = bad
        assert not all_finite(values)
        assert np.argwhere(~finite_rows(values)).tolist() == [list(at[:2])]
        assert nonfinite_pairs(values) == 1


def test_opposite_infinities_do_not_cancel() -> None:
    """In rows without an axis of features, too."""
    values = np.array([[np.inf, -np.inf, 1.0]], np.float32)
    assert not all_finite(values)
    assert nonfinite_pairs(values) == 2
    assert finite_rows(values).tolist() == [[False, False, True]]
