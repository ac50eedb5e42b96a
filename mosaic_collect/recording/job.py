"""One commit on its way from the caller to the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from mosaic_collect.recording.ring.block import Block
from mosaic_collect.store.counts import Counts
from mosaic_collect.store.metadata import StoreState


@dataclass(eq=False)
class Job:
    """One commit.

    Attributes:
        state: What is true after it, but for the counts.
        counts: Of all rows then; the encoder's to say.
        block: The block to write; None if only the state changed.
        release: Whether the slot is free afterwards.
        queued: Set when the encoder will see it.
        written: Set when its shards are written, though not safe yet: the block may change again.
        done: Set when committed.
    """

    state: StoreState
    block: Block | None = None
    release: bool = True
    queued: bool = False
    written: bool = False
    done: bool = False
    counts: Counts = field(default_factory=lambda: Counts.zero(()))
