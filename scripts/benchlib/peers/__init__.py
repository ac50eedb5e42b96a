"""Recorders that are measured side by side, one module each, all with the same calls.

Each is its library's best fair form: it knows the number of steps from the start, writes whole
aligned chunks, works in the background where that helps it, and is durable when ``finish``
returns.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from benchlib.workload import Rows, Workload


@dataclass(frozen=True)
class Plan:
    """What a recorder is told before the first step.

    Attributes:
        path: Where to write; nothing is there.
        steps: Steps to come, T.
        block_steps: Steps of a block, where it has blocks.
        buffer_mb: Bound of its buffers, where it can be given one; or "auto".
        compressor: As ``TrajectoryWriter`` names it, where the recorder can be told.
    """

    path: str
    steps: int
    block_steps: int
    buffer_mb: float | str
    compressor: str

    @classmethod
    def of(cls, args: Namespace, path: str, steps: int, buffer_mb: float | str = "") -> Plan:
        """As the command line has it, unless another buffer is wanted."""
        return cls(path, steps, args.block_steps, buffer_mb or args.buffer_mb, args.compressor)


class Recorder(Protocol):
    """Writes steps."""

    def __init__(self, workload: Workload, plan: Plan) -> None: ...

    def add(self, rows: Rows) -> None:
        """Take one step; the rows may change afterwards."""

    def finish(self) -> None:
        """When it returns, all steps would survive a power cut."""

    @staticmethod
    def read(path: str, field: str, start: int, stop: int) -> NDArray[Any]:
        """Steps of a field, shape ``(stop - start, N[, D])``."""


@dataclass(frozen=True)
class Peer:
    """Where a recorder is, and how it is called in tables.

    Attributes:
        module: Under ``benchlib.peers``.
        cls: The class.
        title: In words.
        slow: So slow that an eighth of the steps must do.
    """

    module: str
    cls: str
    title: str
    slow: bool = False

    def load(self) -> type[Recorder]:
        """The class; its library is imported here.

        Raises:
            ImportError: The library is missing.
        """
        loaded: type[Recorder] = getattr(
            importlib.import_module(f"benchlib.peers.{self.module}"), self.cls
        )
        return loaded


PEERS = {
    "mosaic_collect": Peer("ours", "Ours", "mosaic_collect"),
    "mosaic-threads": Peer("ours", "OursInThreads", 'mosaic_collect, encode_in="threads"'),
    "tensorstore": Peer("tensorstore_peer", "Tensorstore", "tensorstore, this layout and codec"),
    "memmap": Peer("memmap", "Memmap", "np.memmap, not compressed"),
    "tensordict": Peer("tensordict_peer", "MemoryMapped", "tensordict memmap, not compressed"),
    "acquire": Peer("acquire", "Acquire", "acquire-zarr, blosc-lz4", slow=True),
    "zarr": Peer("zarr_peer", "ZarrDefault", "zarr-python, default codec"),
    "zarr-layout": Peer("zarr_peer", "ZarrLayout", "zarr-python, this layout and codec"),
    "lists": Peer("lists", "Lists", "lists, stack, pickle (as MOSAIC)"),
    "h5py": Peer("hdf5", "Blocks", "h5py, blocks, lzf and shuffle", slow=True),
    "h5py-isaac": Peer("hdf5", "Episodes", "h5py as Isaac Lab (episodes, gzip)", slow=True),
}
