"""What a shard says of itself in front of its chunks, so that it is never taken for another.

    0        8               24       32       40       48    50    52     56    60    64
    ┌────────┬───────────────┬────────┬────────┬────────┬─────┬─────┬──────┬─────┬─────┐
    │ magic  │ store         │ run    │ block  │ rows   │field│  0  │ twins│  0  │ crc │
    └────────┴───────────────┴────────┴────────┴────────┴─────┴─────┴──────┴─────┴─────┘
      8 B      16 B            8 B      uint64   uint64  uint16      uint32        CRC-32C

A checksum tells that bytes are whole, not whose they are. A shard of another recording, of another
block or field, or an older copy has good checksums: in its place it would be a wrong pair.

``twins`` has bit i for the i-th of the fields whose ``default`` is this one: they share the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.codec import CRC_NBYTES, checked, crc_bytes
from mosaic_collect.store.metadata import StoreState

LABEL_NBYTES = 64
_MAGIC = b"MCshard\x02"  # its last byte is the format version
_PARTS = struct.Struct("<8s16s8sQQHHII")
#: Fields of one default that a label has places for; others never share.
MOST_TWINS = 32


@dataclass(frozen=True)
class ShardLabel:
    """The label of one shard.

    Attributes:
        store: ``StoreState.identity``.
        run: ``Run.key`` of the writer.
        block: Number of the block.
        rows: Steps of the block that held rows when it was written.
        field: Place of its field among all stored ones.
        twins: Bits of the fields that share the file, as drawn above.
    """

    store: str
    run: str
    block: int
    rows: int
    field: int
    twins: int = 0

    @classmethod
    def of(cls, state: StoreState, name: str, block: int, twins: Iterable[str] = ()) -> ShardLabel:
        """Label of a shard that is about to be written, with the state of the store after that."""
        bits = sum(1 << _sharing(state, name).index(twin) for twin in twins)
        rows, place = len(state.steps_of(block)), state.schema.stored_names.index(name)
        return cls(state.identity, state.runs[-1].key, block, rows, place, bits)

    def pack(self) -> bytes:
        """Bytes of the label, 64."""
        store, run = bytes.fromhex(self.store), bytes.fromhex(self.run)
        numbers = (self.block, self.rows, self.field, 0, self.twins, 0)
        data = _PARTS.pack(_MAGIC, store, run, *numbers)
        return data + crc_bytes(data)

    @classmethod
    def unpack(cls, data: bytes, what: str) -> ShardLabel:
        """Read the label from a shard's first 64 bytes; ``what`` names the shard in errors.

        Raises:
            CorruptStoreError: There is no label, or a damaged one.
        """
        if len(data) < LABEL_NBYTES or data[:8] != _MAGIC:
            raise CorruptStoreError(
                f"{what}, label: there is none (another tool wrote it) or it is damaged"
            )
        parts = _PARTS.unpack(checked(memoryview(data), f"{what}, label"))
        _, store, run, block, rows, field, _, twins, _ = parts
        return cls(store.hex(), run.hex(), block, rows, field, twins)

    def problem(self, state: StoreState, name: str, block: int) -> str | None:
        """Why the shard does not belong to this field and block; None if it does."""
        if self.store != state.identity:
            return f"it belongs to another recording ({self.store}), not to this ({state.identity})"
        if not self._is_of(state, name):
            names = state.schema.stored_names
            whose = names[self.field] if self.field < len(names) else f"number {self.field}"
            return f"it holds the field {whose}"
        if self.block != block:
            return f"it is block {self.block}"
        steps = state.steps_of(block)
        if self.rows < len(steps):
            return f"it is older than the last commit: {self.rows} steps, committed {len(steps)}"
        return None if self._run_fits(state, steps) else f"it is of another run ({self.run})"

    def _is_of(self, state: StoreState, name: str) -> bool:
        names = state.schema.stored_names
        if self.field == names.index(name):
            return True
        source = state.schema[name].default
        if not isinstance(source, str) or self.field != names.index(source):
            return False
        return bool(self.twins >> _sharing(state, source).index(name) & 1)

    def _run_fits(self, state: StoreState, steps: range) -> bool:
        """A block's last row says which run wrote it.

        A partial block may be newer than its commit: of a run that was killed before it committed,
        or one whose steps nobody committed, since another writer took its place.
        """
        last = [run.key for run, span in state.spans() if steps and steps[-1] in span]
        keys = {run.key for run, span in state.spans() if span.start < state.committed_steps}
        return self.run in last or (len(steps) < state.block_steps and self.run not in keys)


def _sharing(state: StoreState, source: str) -> list[str]:
    """Fields whose default is this one, in order."""
    return [field.name for field in state.schema.fields if field.default == source]


assert _PARTS.size + CRC_NBYTES == LABEL_NBYTES
