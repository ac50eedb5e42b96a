"""Frames by hand: whatever is told of literals and matches, the library's decoder agrees."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_collect.codec import zstd_content_size
from mosaic_collect.zstd_format import (
    END,
    LEAST_MATCH,
    MOST_BLOCK_NBYTES,
    compressed_block,
    frame_header,
    raw_block_header,
)

ZSTD = numcodecs.Zstd(level=1)
START = np.random.default_rng(0).bytes(3000)
# On both sides of every code's first value and extra bits.
LITERALS = st.one_of(st.integers(0, 70), st.sampled_from([127, 128, 255, 256, 511, 1024, 9000]))
MATCHES = st.one_of(
    st.integers(LEAST_MATCH, 140), st.sampled_from([258, 259, 515, 1026, 1027, 4099, 20000])
)
OFFSETS = st.one_of(st.integers(1, 12), st.integers(13, 3000))
SEQUENCES = st.lists(st.tuples(LITERALS, MATCHES, OFFSETS), min_size=1, max_size=40)


def frame(*blocks: tuple[int, list[tuple[int, int, int]], int]) -> tuple[bytes, bytes]:
    """A frame of START and blocks of (seed, sequences, literals at the end), and its content."""
    content, pieces = bytearray(START), [raw_block_header(len(START)), START]
    for seed, sequences, tail in blocks:
        chance = np.random.default_rng(seed)
        literals = b""
        for count, match, offset in sequences:
            new = chance.bytes(count)
            literals, content = literals + new, content + new
            for _ in range(match):
                content.append(content[-offset])
        new = chance.bytes(tail)
        literals, content = literals + new, content + new
        before, behind = compressed_block(len(literals), sequences)
        pieces += [before, literals, behind]
    return frame_header(len(content)) + b"".join(pieces) + END, bytes(content)


def fits(sequences: list[tuple[int, int, int]]) -> bool:
    return sum(count + match for count, match, _ in sequences) < MOST_BLOCK_NBYTES - 100


@given(SEQUENCES.filter(fits), SEQUENCES.filter(fits), st.sampled_from([0, 1, 40]))
def test_any_sequences(one: list, other: list, tail: int) -> None:
    data, content = frame((1, one, tail), (2, other, 0))
    assert ZSTD.decode(data) == content
    assert zstd_content_size(memoryview(data)) == len(content)


@pytest.mark.parametrize("count", [1, 126, 127, 128, 129, 255, 256, 5000, 0x7EFF, 0x7F00, 0x7F01])
def test_any_number_of_sequences(count: int) -> None:
    data, content = frame((3, [(0, 3, 700)] * count, 5))
    assert ZSTD.decode(data) == content


def test_a_repeated_offset_is_told_shortly() -> None:
    same = compressed_block(100, [(10, 20, 2000)] * 10)[1]
    other = compressed_block(100, [(10, 20, 2000 + i) for i in range(10)])[1]
    assert len(same) < len(other)


def test_a_block_as_large_as_may_be() -> None:
    data, content = frame((4, [(0, MOST_BLOCK_NBYTES // 2, 5)] * 2, 0))
    assert ZSTD.decode(data) == content
