"""How a recording is made: what a writer may be told beside its store, schema and data."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from mosaic_collect.checks import thread_count
from mosaic_collect.errors import InputError
from mosaic_collect.recording.encoding.process import is_wanted
from mosaic_collect.recording.ring.budget import Budget, asked_nbytes
from mosaic_collect.recording.ring.devices import check_device, staging_nbytes
from mosaic_collect.store.codec import Compressor


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """Options of a writer, checked when made.

    Attributes:
        device: Where steps are staged: "cpu", or a CUDA device such as "cuda:0".
        buffer_mb: Bound of the host ring, in 10^6 bytes; "auto" aims at 64 steps a block inside a
            tenth of the free memory. On resume the store's block size stays.
        compressor: "auto", "lz4", "zstd" or "none"; on resume "auto" is the store's own.
        commit_seconds: Commit at least this often while steps come in; None: only full blocks.
        threads: That compress; None: the processors, at most 4.
        encode_in: "threads" of this process, or a "process" of its own, which leaves this one's
            interpreter to the simulation; "auto": a process for rings of 64 MB and more on Linux.

    Raises:
        InputError: A bad one.
        MissingDependencyError: A device, but no torch.
    """

    device: Any = "cpu"
    buffer_mb: float | str = "auto"
    compressor: str = "auto"
    commit_seconds: float | None = 60.0
    threads: int | None = None
    encode_in: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        check_device(self.device)
        Compressor.named(self.compressor)
        asked_nbytes(self.buffer_mb)
        is_wanted(self.encode_in, 0)
        thread_count(self.threads)
        seconds = self.commit_seconds
        number = isinstance(seconds, Real)
        if seconds is not None and not (number and float(seconds) >= 0):
            raise InputError(f"commit_seconds: expected a number from 0, or None, got {seconds!r}")

    @property
    def num_threads(self) -> int:
        """Threads that compress."""
        return thread_count(self.threads)

    def budget(self) -> Budget:
        """What the ring may take; memory is looked at by this call."""
        return Budget.of(self.buffer_mb, staging_nbytes(self.device))
