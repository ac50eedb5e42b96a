"""What copies steps into blocks, whatever memory they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mosaic_collect.recording.ring.block import Block


class Staging(Protocol):
    """Copies steps into blocks."""

    def new_block(self, slot: int) -> Block:
        """The memory of a slot of the ring, to be filled first."""

    def begin(self, block: Block) -> None:
        """Stage into ``block`` from now on; what it holds already stays."""

    def stage(self, block: Block, rows: Mapping[str, Any]) -> None:
        """Copy one step behind those staged, without counting it yet.

        Args:
            block: The current block.
            rows: Per field, an array or tensor ``(num_envs[, dim])``, or one number for all.
        """

    def seal(self, block: Block) -> None:
        """All staged steps are on their way to ``block``; ``block.wait_ready`` waits for them."""

    def close(self) -> None:
        """Give back what staging took."""
