"""A field's chunks: both ways to a frame give the values back, and the right one is taken."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from mosaic_collect.recording import encoder as encoders
from mosaic_collect.recording.encoder import FieldEncoder
from mosaic_collect.store.codec import Compressor, crc_bytes
from tests.recording.histories import history


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(encoder: FieldEncoder, values: np.ndarray, name: str = "auto", whole: bool = True) -> int:
    """Round trip; the size."""
    data = b"".join(map(bytes, encoder.encode(values, whole)))
    out = np.empty_like(values)
    decoder = Compressor.named(name)
    decoder.decode(memoryview(data + crc_bytes(data)), out, "chunk")
    assert out.tobytes() == values.tobytes()
    return len(data)


@pytest.fixture
def encoder() -> FieldEncoder:
    return FieldEncoder(Compressor.named("auto"))


def test_noise_is_stored_as_it_is_and_not_copied(encoder: FieldEncoder) -> None:
    values = noise(20, 64, 100)
    buffers = encoder.encode(values)
    assert sum(np.shares_memory(b, values) for b in buffers if isinstance(b, np.ndarray)) >= 3
    assert values.nbytes < check(encoder, values) < values.nbytes + 200


def test_a_history_is_compressed(encoder: FieldEncoder) -> None:
    values = history(20, 64, terms=(20, 3, 57))
    assert values.nbytes / check(encoder, values) > 4
    # Also where one row is longer than a sample would be.
    wide = history(8, 64, terms=(1500,))
    assert wide.nbytes / check(FieldEncoder(Compressor.named("auto")), wide) > 4


def test_what_shrinks_only_here_and_there_is_compressed(encoder: FieldEncoder) -> None:
    values = noise(20, 64, 100)
    values[5:10] = 0.5
    assert check(encoder, values) < 0.8 * values.nbytes


def test_a_partial_block_is_compressed(encoder: FieldEncoder) -> None:
    check(encoder, noise(20, 64, 100))
    values = noise(20, 64, 100)
    values[:, 10:] = 0
    assert check(encoder, values, whole=False) < 0.2 * values.nbytes


def test_noise_that_ends_is_noticed(encoder: FieldEncoder) -> None:
    check(encoder, noise(20, 64, 100))
    sizes = [check(encoder, np.ones((20, 64, 100), np.float32)) for _ in range(20)]
    assert sizes[-1] < 1000, "compressed again after some chunks"


def test_noise_that_begins_is_noticed(encoder: FieldEncoder) -> None:
    check(encoder, np.ones((20, 64, 100), np.float32))
    for _ in range(20):
        buffers = encoder.encode(noise(20, 64, 100))
    assert len(buffers) > 1


def test_a_small_chunk_is_not_worth_a_decision(encoder: FieldEncoder) -> None:
    assert len(encoder.encode(noise(2, 64, 100))) == 1


def test_by_several_threads_at_once(encoder: FieldEncoder) -> None:
    chunks = [history(20, 64, terms=(40, 3), seed=s) for s in range(4)]
    chunks += [noise(20, 64, 215, seed=s) for s in range(4)]
    failed = []

    def work(chance: np.random.Generator) -> None:
        try:
            for _ in range(40):
                check(encoder, chunks[chance.integers(len(chunks))])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(np.random.default_rng(s),)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("compressor", ["lz4", "none", "zstd"])
def test_other_compressors(compressor: str) -> None:
    encoder = FieldEncoder(Compressor.named(compressor))
    for values in (history(20, 64, terms=(40, 3)), noise(20, 64, 215)):
        check(encoder, values, compressor)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_other_dtypes(encoder: FieldEncoder, dtype: str) -> None:
    values = noise(40, 64, 415) * 100
    check(encoder, np.ascontiguousarray(values.astype(dtype)))


@given(arrays.arrays(np.float32, st.tuples(*[st.integers(1, n) for n in (4, 9, 30)])))
def test_any_rows(values: np.ndarray) -> None:
    """With the size limit away, so that little arrays are decided about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_SMALL_NBYTES", 0)
        check(FieldEncoder(Compressor.named("auto")), values)
