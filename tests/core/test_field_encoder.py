"""A field's chunks: every way to a frame gives the values back, and the cheap ones are taken."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mosaic_collect import field_encoder, repeat_coder
from mosaic_collect.codec import Compressor, crc_bytes
from mosaic_collect.field_encoder import FieldEncoder
from mosaic_collect.repeat_coder import RepeatCoder
from tests.core.histories import history


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bytes_of(encoder: FieldEncoder, values: np.ndarray) -> bytes:
    encoded = encoder.encode(values)
    data = b"".join(map(bytes, encoded.buffers))
    encoder.take_back(encoded)
    return data


def check(encoder: FieldEncoder, values: np.ndarray, compressor: str = "auto") -> int:
    """Round trip; the size."""
    data = bytes_of(encoder, values)
    out = np.empty_like(values)
    decoder = Compressor.named(compressor).encoder()
    decoder.decode(memoryview(data + crc_bytes(data)), out, "chunk")
    assert out.tobytes() == values.tobytes()
    return len(data)


@pytest.fixture
def encoder() -> FieldEncoder:
    return FieldEncoder(Compressor.named("auto"))


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the chunks that were left to the compressor."""
    seen: list[int] = []
    inner = FieldEncoder.compressed

    def spy(self: FieldEncoder, values: np.ndarray) -> object:
        seen.append(values.nbytes)
        return inner(self, values)

    monkeypatch.setattr(FieldEncoder, "compressed", spy)
    return seen


def test_noise_is_stored_as_it_is_and_not_copied(
    encoder: FieldEncoder, compressed: list[int]
) -> None:
    values = noise(20, 64, 100)
    buffers = encoder.encode(values).buffers
    assert sum(np.shares_memory(b, values) for b in buffers if isinstance(b, np.ndarray)) >= 3
    assert values.nbytes < check(encoder, values) < values.nbytes + 200
    assert not compressed


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_history_costs_its_new_frames(
    encoder: FieldEncoder, compressed: list[int], newest_first: bool
) -> None:
    values = history(20, 68, terms=(20, 3, 57), newest_first=newest_first)
    values = np.ascontiguousarray(values[:, 4:])  # in the midst of their trajectories
    size = check(encoder, values)
    assert not compressed
    assert values.nbytes / size > 4.2
    whole = len(Compressor.named("auto").encoder().compress(values))
    assert size < 1.05 * whole


def test_resets_and_a_padded_tail_come_back(encoder: FieldEncoder, compressed: list[int]) -> None:
    resets = tuple((env, step) for env in (0, 7, 16) for step in (1, 9, 10, 63))
    values = history(20, 64, terms=(40, 3), resets=resets)
    values[17:] = 0
    assert values.nbytes / check(encoder, values) > 3
    assert not compressed


def test_a_row_that_is_off_only_inside_a_copy_comes_back(
    encoder: FieldEncoder, compressed: list[int]
) -> None:
    """Ends of copies are looked at first; what is wrong between them must still be seen."""
    values = history(20, 64, terms=(40, 3))
    check(encoder, values)
    values[3, 30, 50] += 1
    values[11, 5, 170] += 1  # in the copy of the second frame of the first term
    check(encoder, values)
    assert not compressed


def test_nan_and_minus_zero_are_bits_like_others(encoder: FieldEncoder) -> None:
    values = history(20, 64, terms=(40, 3))
    frames = values.view(np.uint32)
    frames[:, :, :40] = 0x7FC00001
    frames[5, :, 40:80] = 0x80000000
    frames[6, :, 40:80] = 0
    check(encoder, values)


def test_every_value_is_among_the_distinct(encoder: FieldEncoder) -> None:
    values = history(20, 64, terms=(40, 3), resets=((4, 20),))
    encoded = encoder.encode(values)
    assert sum(d.size for d in encoded.distinct) < values.size / 3
    assert np.array_equal(
        np.unique(np.concatenate([d.reshape(-1) for d in encoded.distinct])), np.unique(values)
    )


def test_the_pattern_may_change_from_chunk_to_chunk(encoder: FieldEncoder) -> None:
    kinds = [
        history(20, 64, terms=(20, 23)),
        history(20, 64, terms=(23, 20)),
        noise(20, 64, 215),
        np.zeros((20, 64, 215), np.float32),
        history(20, 64, terms=(43,), newest_first=True),
    ]
    for turn in range(80):
        check(encoder, kinds[turn * turn % len(kinds)])


def test_noise_that_ends_is_noticed(encoder: FieldEncoder) -> None:
    check(encoder, noise(20, 64, 100))
    sizes = [check(encoder, np.ones((20, 64, 100), np.float32)) for _ in range(40)]
    assert sizes[-1] < 1000, "compressed again after some chunks"


def test_a_wrong_guess_is_never_written(
    encoder: FieldEncoder, compressed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pattern says, the frame is decoded and compared first."""
    values = history(20, 64, terms=(40, 3))
    check(encoder, values)

    def all_follow(self: RepeatCoder, rows: np.ndarray) -> np.ndarray:
        return np.arange(len(rows)) > 0

    monkeypatch.setattr(RepeatCoder, "likely_followers", all_follow)
    check(encoder, values)
    assert not compressed, "comparing everything mended it"
    monkeypatch.setattr(RepeatCoder, "followers", all_follow)
    check(encoder, values)
    assert compressed == [values.nbytes]


def test_memory_is_used_again_only_when_it_was_taken_back(encoder: FieldEncoder) -> None:
    one, other = (history(20, 64, terms=(40, 3), seed=s) for s in (1, 2))
    first, second = encoder.encode(one), encoder.encode(other)
    assert not np.shares_memory(first.buffers[0], second.buffers[0])
    before = bytes(first.buffers[0])
    encoder.take_back(second)
    third = encoder.encode(other)
    assert np.shares_memory(second.buffers[0], third.buffers[0])
    assert bytes(first.buffers[0]) == before


def test_raw_blocks_are_never_taken_for_own_memory(encoder: FieldEncoder) -> None:
    """They are the ring's; a frame in them would overwrite steps."""
    raw = encoder.encode(noise(20, 64, 215))
    assert raw.room is None
    encoder.take_back(raw)
    assert encoder._rooms == []


def test_by_several_threads_at_once(encoder: FieldEncoder) -> None:
    chunks = [history(20, 64, terms=(40, 3), seed=s) for s in range(6)]
    chunks += [noise(20, 64, 215, seed=s) for s in range(2)]
    failed = []

    def work(chance: np.random.Generator) -> None:
        try:
            for _ in range(30):
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


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8"])
def test_other_dtypes(encoder: FieldEncoder, dtype: str) -> None:
    wide = history(40, 64, terms=(80, 3), dtype="float64")
    values = np.ascontiguousarray((wide * 100).astype(dtype))
    check(encoder, values)


@given(
    values=arrays.arrays(np.float32, st.tuples(*[st.integers(1, n) for n in (4, 9, 30)])),
    repeats=st.integers(1, 3),
)
def test_any_small_rows(values: np.ndarray, repeats: int) -> None:
    """With the size limits away, so that all ways are tried on little arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_encoder, "_SMALL_NBYTES", 0)
        patch.setattr(repeat_coder, "_MOST_COPIES", 3)
        encoder = FieldEncoder(Compressor.named("auto"))
        for _ in range(repeats):
            check(encoder, np.ascontiguousarray(np.tile(values, (2, 2, 3))))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 40))
def test_any_history(seed: int, envs: int, steps: int) -> None:
    chance = np.random.default_rng(seed)
    terms = tuple(int(t) for t in chance.integers(1, 30, chance.integers(1, 6)))
    resets = tuple((int(chance.integers(envs)), int(chance.integers(steps))) for _ in range(9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_encoder, "_SMALL_NBYTES", 0)
        encoder = FieldEncoder(Compressor.named("auto"))
        newest_first = bool(chance.integers(2))
        frames = int(chance.integers(1, 7))
        options = {"frames": frames, "newest_first": newest_first, "resets": resets}
        for s in range(2):
            check(encoder, history(min(envs, 12), steps, terms, seed=s, **options))
