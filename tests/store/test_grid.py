"""The cutting of a field: whole chunks, little padding, zarr's chunk keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mosaic_collect.store.grid import CHUNK_NBYTES, FieldGrid
from mosaic_collect.store.schema import Field

FIELDS = st.builds(
    Field,
    name=st.just("a"),
    dim=st.none() | st.integers(1, 5000),
    dtype=st.sampled_from(["bool", "float16", "float32", "float64"]),
)


@given(FIELDS, st.integers(1, 20_000), st.integers(1, 1024))
def test_a_plan_covers_all_envs_with_whole_chunks(field: Field, n: int, steps: int) -> None:
    grid = FieldGrid.plan(field, n, steps)
    assert grid.padded_envs == grid.chunks * grid.chunk_envs >= n
    # No chunk is padding alone, and none is needlessly uneven.
    assert (grid.chunks - 1) * grid.chunk_envs < n
    assert grid.padded_envs - n < grid.chunks
    assert 1 <= grid.chunk_envs <= n


@given(FIELDS, st.integers(1, 20_000), st.integers(1, 1024))
def test_a_chunk_is_within_its_aim_or_one_env(field: Field, n: int, steps: int) -> None:
    grid = FieldGrid.plan(field, n, steps)
    assert grid.chunk_nbytes <= CHUNK_NBYTES or grid.chunk_envs == 1


def test_small_fields_are_one_chunk_without_padding() -> None:
    grid = FieldGrid.plan(Field(name="a", dim=3), 1000, 8)
    assert (grid.chunks, grid.padded_envs) == (1, 1000)


def test_shapes_are_env_major() -> None:
    grid = FieldGrid(
        Field(name="a", dim=7, dtype="float64"), num_envs=5, block_steps=4, chunk_envs=2
    )
    assert grid.chunks == 3
    assert grid.buffer_shape == (6, 4, 7)
    assert grid.chunk_shape == (2, 4, 7)
    assert grid.chunk_nbytes == 2 * 4 * 7 * 8
    assert grid.shard_nbytes == 6 * 4 * 7 * 8


def test_one_value_an_env_has_no_feature_axis() -> None:
    grid = FieldGrid(Field(name="a", dtype="bool"), num_envs=5, block_steps=4, chunk_envs=2)
    assert grid.buffer_shape == (6, 4)
    assert grid.shard_nbytes == 24


def test_shard_names_are_zarrs_keys_with_a_dot() -> None:
    wide = FieldGrid(Field(name="a", dim=7), 5, 4, 2)
    flat = FieldGrid(Field(name="a"), 5, 4, 2)
    assert wide.shard_name(12) == "c.12.0.0"
    assert flat.shard_name(0) == "c.0.0"
