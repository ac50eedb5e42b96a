"""acquire-zarr: its own threads, chunks of a block, blosc-lz4."""

from __future__ import annotations

from typing import Any

import acquire_zarr as az
import numpy as np
import zarr
from numpy.typing import NDArray

from benchlib.measure import sync_tree
from benchlib.peers import Plan
from benchlib.peers.layout import array_path, chunk_shapes
from benchlib.workload import Rows, Workload


class Acquire:
    """One stream of several arrays, a frame a step."""

    def __init__(self, workload: Workload, plan: Plan) -> None:
        self._path = plan.path
        workload.require_distinct(plan.block_steps)
        chunks = chunk_shapes(workload, plan)
        arrays = [_settings(n, np.atleast_3d(v), chunks[n]) for n, v in workload.pool.items()]
        self._stream = az.ZarrStream(az.StreamSettings(store_path=plan.path, arrays=arrays))

    def add(self, rows: Rows) -> None:
        for name, value in rows.items():
            frame = value.view(np.uint8) if value.dtype == bool else value
            self._stream.append(np.ascontiguousarray(np.atleast_3d(frame[None])), key=name)

    def finish(self) -> None:
        self._stream.close()
        sync_tree(self._path)

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        values = np.asarray(zarr.open_array(array_path(path, field), mode="r")[start:stop])
        return values[..., 0].view(bool) if values.dtype == np.uint8 else values


def _settings(name: str, values: NDArray[Any], chunk: list[int]) -> Any:
    """An array ``(T, N, D)`` of chunks ``chunk``, whose last number may be missing."""
    _steps, num_envs, width = values.shape
    time, space = az.DimensionType.TIME, az.DimensionType.SPACE
    return az.ArraySettings(
        output_key=name,
        data_type=np.dtype(np.uint8 if values.dtype == bool else values.dtype),
        compression=az.CompressionSettings(
            compressor=az.Compressor.BLOSC1, codec=az.CompressionCodec.BLOSC_LZ4, level=1, shuffle=0
        ),
        dimensions=[
            _dimension("step", time, 0, chunk[0]),
            _dimension("env", space, num_envs, chunk[1]),
            _dimension("value", space, width, width),
        ],
    )


def _dimension(name: str, kind: Any, size: int, chunk: int) -> Any:
    return az.Dimension(
        name=name, kind=kind, array_size_px=size, chunk_size_px=chunk, shard_size_chunks=1
    )
