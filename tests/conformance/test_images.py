"""Images of ordinary size, in chunks of ordinary size, are read alike by all readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.grid import CHUNK_NBYTES
from tests.conformance.test_readers import READERS, Read
from tests.helpers import assert_same

N, T, SHAPE = 2, 41, (3, 224, 224)
SCHEMA = Schema(
    (
        Field(name="noise", dim=SHAPE, dtype="uint8"),  # does not compress, and is stored as it is
        Field(name="plain", dim=SHAPE, dtype="uint8"),
        Field(name="depth", dim=SHAPE[1:], dtype="float16"),
    )
)


def images(step: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(step)
    plain = np.arange(N * 3 * 224 * 224, dtype=np.uint32).reshape(N, *SHAPE) // (300 + step)
    return {
        "noise": chance.integers(0, 256, (N, *SHAPE), np.uint8),
        "plain": plain.astype(np.uint8),
        "depth": (plain[:, 0] % 1000).astype(np.float16),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> str:
    path = str(tmp_path_factory.mktemp("images") / "s.zarr")
    buffer_mb = 3 * 20 * SCHEMA.pair_nbytes * N / 1e6
    with TrajectoryWriter(path, SCHEMA, N, buffer_mb=buffer_mb) as writer:
        for step in range(T):
            writer.add_step(**images(step))
    return path


def test_chunks_hold_some_images_and_are_of_ordinary_size(store: str) -> None:
    state = TrajectoryDataset(store).state
    assert (state.block_steps, state.chunk_steps) == (20, {"noise": 10, "plain": 10})
    for name in SCHEMA.names:
        assert CHUNK_NBYTES / 2 < state.grid(name).chunk_nbytes <= CHUNK_NBYTES


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("field", SCHEMA.names)
def test_every_reader_sees_every_bit(store: str, read: Read, field: str) -> None:
    got = read(store, field)
    assert got.shape == (T, N, *SCHEMA[field].row_shape)
    for step in range(T):
        assert_same(got[step], images(step)[field], f"step {step}")
