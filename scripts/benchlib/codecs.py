"""``codec``: stored size and CPU of compressors on one block, field by field, on one thread."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchlib.recording import DifferentDataError
from benchlib.table import show
from benchlib.workload import Workload, make_workload
from mosaic_collect.recording.encoder import FieldEncoder
from mosaic_collect.store.codec import Compressor, crc_bytes
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import Field

CANDIDATES = (
    *(("lz4", level) for level in (1, 5, 9)),
    *(("zstd", level) for level in (-7, -5, -3, -1, 1, 3)),
    ("none", 0),
)
_REPEATS = 5


def codec(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    chunks = chunks_of(workload, args.block_steps)
    raw = sum(c.nbytes for field in chunks.values() for c in field)
    totals, by_field, results = [], [], {}
    for name, level in CANDIDATES:
        compressor = Compressor(name, level)
        figures = {
            field: measure(FieldEncoder(compressor), compressor, values)
            for field, values in chunks.items()
        }
        stored, encode_s, decode_s = (sum(f[i] for f in figures.values()) for i in range(3))
        title = f"{name} {level}"
        results[title] = {"fields": figures, "raw": raw, "stored": stored}
        totals.append(
            {
                "compressor": title,
                "ratio": raw / stored,
                "encode CPU s/GB": encode_s / raw * 1e9,
                "decode CPU s/GB": decode_s / raw * 1e9,
            }
        )
        cells = {f: _cell(chunks[f], *v) for f, v in figures.items() if f != "valid_mask"}
        by_field.append({"compressor": title, **cells})
    show(f"Compressors, {args.block_steps} steps a block, one thread, checksum included", totals)
    show("By field: ratio, encode s/GB, decode s/GB of that field", by_field)
    return results


def chunks_of(workload: Workload, block_steps: int) -> dict[str, list[NDArray[Any]]]:
    """Per field, the chunks of one block as the writer cuts them."""
    workload.require_distinct(block_steps)
    found = {}
    for name, values in workload.pool.items():
        field = Field(name=name, dim=values.shape[2:], dtype=str(values.dtype))
        grid = FieldGrid.plan(field, workload.num_envs, block_steps)
        block = np.ascontiguousarray(values[:block_steps].swapaxes(0, 1))
        found[name] = [block[grid.rows(chunk)] for chunk in range(grid.chunks)]
    return found


def measure(
    encoder: FieldEncoder, decoder: Compressor, chunks: list[NDArray[Any]]
) -> tuple[int, float, float]:
    """Stored bytes, CPU seconds to encode, CPU seconds to decode: the least of some repeats."""
    encoded = []
    for chunk in chunks:
        buffers = encoder.encode(chunk)
        encoded.append(b"".join([*map(bytes, buffers), crc_bytes(*buffers)]))
    out = [np.empty_like(c) for c in chunks]

    def encode() -> None:
        for chunk in chunks:
            crc_bytes(*encoder.encode(chunk))

    def decode() -> None:
        for data, target in zip(encoded, out, strict=True):
            decoder.decode(memoryview(data), target, "chunk")

    # As the writer does, in a thread: in the main one blosc starts threads of its own.
    with ThreadPoolExecutor(1) as thread:
        seconds = [thread.submit(_least, work).result() for work in (encode, decode)]
    same = all(a.tobytes() == b.tobytes() for a, b in zip(chunks, out, strict=True))
    if not same:
        raise DifferentDataError("a codec gave back other values than it was given")
    return sum(map(len, encoded)), seconds[0], seconds[1]


def _least(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(_REPEATS):
        start = time.thread_time()
        work()
        taken.append(time.thread_time() - start)
    return min(taken)


def _cell(chunks: list[NDArray[Any]], stored: int, encode_s: float, decode_s: float) -> str:
    raw = sum(c.nbytes for c in chunks)
    return f"{raw / stored:.2f} / {encode_s / raw * 1e9:.2f} / {decode_s / raw * 1e9:.2f}"
