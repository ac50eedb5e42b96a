"""The cutting of a field: whole chunks, little padding, zarr's chunk keys."""

from __future__ import annotations

from hypothesis import given, strategies as st

from mosaic_collect.store.grid import CHUNK_NBYTES, FieldGrid, cut_steps, even_steps
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
    assert grid.chunk_nbytes <= CHUNK_NBYTES or grid.chunk_envs == 1


def test_small_fields_are_one_chunk_without_padding() -> None:
    grid = FieldGrid.plan(Field(name="a", dim=3), 1000, 8)
    assert (grid.chunks, grid.padded_envs) == (1, 1000)


def test_shapes_are_env_major_and_names_zarrs_keys_with_a_dot() -> None:
    grid = FieldGrid(Field(name="a", dim=7, dtype="float64"), 5, block_steps=4, chunk_envs=2)
    assert grid.chunks == 3
    assert grid.shard_name(12) == "c.12.0.0"
    assert grid.buffer_shape == (6, 4, 7)
    assert grid.chunk_shape == (2, 4, 7)
    assert grid.chunk_nbytes == 2 * 4 * 7 * 8
    assert grid.shard_nbytes == 6 * 4 * 7 * 8


def test_one_value_an_env_has_no_feature_axis() -> None:
    grid = FieldGrid(Field(name="a", dtype="bool"), num_envs=5, block_steps=4, chunk_envs=2)
    assert grid.buffer_shape == (6, 4)
    assert grid.shard_nbytes == 24
    assert grid.shard_name(0) == "c.0.0"


AXES = st.builds(
    Field,
    name=st.just("a"),
    dim=st.tuples(st.integers(1, 1000), st.integers(2, 1000), st.integers(1, 4)),
    dtype=st.sampled_from(["uint8", "float32"]),
)


@given(AXES, st.integers(1, 2000), st.integers(1, 1024))
def test_chunks_of_images_are_within_their_aim_or_one_image(
    field: Field, n: int, steps: int
) -> None:
    grid = FieldGrid.plan(field, n, steps)
    assert grid.chunk_nbytes <= CHUNK_NBYTES or grid.chunk_shape[:2] == (1, 1)
    assert steps % grid.chunk_steps == 0
    if grid.chunk_steps < steps:
        assert grid.chunk_envs == 1
        assert field.row_nbytes * steps > CHUNK_NBYTES


@given(st.lists(AXES, min_size=1, max_size=3), st.integers(1, 1024))
def test_even_steps_leave_no_slivers(fields: list[Field], most: int) -> None:
    steps = even_steps(fields, most)
    assert most / 2 < steps <= most
    for field in fields:
        grid = FieldGrid.plan(field, 3, steps)
        if grid.chunk_steps < steps:
            larger = 2 * grid.chunk_steps * field.row_nbytes
            assert larger > CHUNK_NBYTES - field.row_nbytes


def test_even_steps_are_the_most_that_can_be() -> None:
    # 15 images fill a chunk: 61 steps would have to be cut into single ones.
    image = Field(name="rgb", dim=(256, 171, 3), dtype="uint8")
    assert CHUNK_NBYTES // image.row_nbytes == 15
    assert even_steps([image], 61) == 60
    assert FieldGrid.plan(image, 4, 60).chunk_steps == 15
    assert even_steps([Field(name="a", dim=100_000), Field(name="b")], 61) == 61, "flat: uncut"


def test_the_steps_of_flat_rows_are_never_cut() -> None:
    grid = FieldGrid.plan(Field(name="a", dim=100_000), 4, 64)
    assert (grid.chunk_steps, grid.chunk_envs, grid.chunks) == (64, 1, 4)
    assert cut_steps({"a": grid}) == {}


def test_chunks_are_numbered_steps_first() -> None:
    grid = FieldGrid(Field(name="a", dim=(2, 2)), 5, 6, chunk_envs=2, chunk_steps=3)
    assert (grid.env_chunks, grid.chunks, grid.padded_envs) == (3, 6, 6)
    assert grid.buffer_shape == (6, 6, 2, 2)
    assert grid.chunk_shape == (2, 3, 2, 2)
    assert grid.shard_nbytes == 6 * 6 * 2 * 2 * 4
    places = [grid.rows(chunk) for chunk in range(grid.chunks)]
    assert [(e.start, s.start) for e, s in places] == [(e, s) for s in (0, 3) for e in (0, 2, 4)]
    assert grid.shard_name(7) == "c.7.0.0.0"
    assert cut_steps({"a": grid}) == {"a": 3}
