"""What a writer did, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WriterStats:
    """What a writer did since it was opened.

    Attributes:
        steps: Added.
        committed_steps: Of the store, in all.
        raw_nbytes: Of the added steps, uncompressed.
        stored_nbytes: Written to shards.
        stalled_seconds: That ``add_step`` waited for the disk.
        seconds: Since opening.
    """

    steps: int
    committed_steps: int
    raw_nbytes: int
    stored_nbytes: int
    stalled_seconds: float
    seconds: float
