"""Frames of raw blocks: the library's decoder takes them, and nothing was copied."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest

from mosaic_collect.store.codec import MOST_BLOCK_NBYTES, raw_frame, zstd_content_size

MOST = MOST_BLOCK_NBYTES


@pytest.mark.parametrize("nbytes", [1, 255, 256, MOST - 1, MOST, MOST + 1, 5 * MOST, 5 * MOST + 7])
def test_decodes_to_what_it_was_made_of(nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    pieces = raw_frame(data)
    frame = b"".join(map(bytes, pieces))
    assert zstd_content_size(memoryview(frame)) == nbytes
    assert numcodecs.Zstd(level=1).decode(frame) == data.tobytes()
    assert len(frame) - nbytes == 9 + 3 * -(-nbytes // MOST) + 3


def test_the_data_is_not_copied() -> None:
    data = np.zeros(3 * MOST, np.uint8)
    slices = [p for p in raw_frame(data) if isinstance(p, np.ndarray)]
    assert len(slices) == 3
    assert all(np.shares_memory(s, data) for s in slices)
