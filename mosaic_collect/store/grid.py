"""How one field is cut into blocks, shards and chunks: sizes only, no bytes.

    steps ─────────────────────────────▶
    │ block 0        │ block 1        │     one shard a field and block, one file each
    │┌──────────────┐│┌──────────────┐│
    ││ chunk (0)    │││ chunk (0)    ││  ┐
    │├──────────────┤│├──────────────┤│  ├ padded_envs = chunks * chunk_envs >= num_envs
    ││ chunk (1)    │││ chunk (1)    ││  ┘
    ▼ envs

A block is staged env-major, ``(padded_envs, block_steps[, dim])``, so that a chunk is one
contiguous slice of it and consecutive steps of one environment lie side by side; in a ring that
another process encodes, chunks are brought into that order there.
"""

from __future__ import annotations

from dataclasses import dataclass

from mosaic_collect.store.schema import Field

#: Raw bytes of a chunk to aim at: large enough that handing one to a thread costs nothing beside
#: encoding it, small enough that a reader of one environment decodes little else.
CHUNK_NBYTES = 2 << 20


@dataclass(frozen=True)
class FieldGrid:
    """The cutting of one field.

    Attributes:
        field: Name, dtype and width.
        num_envs: Environments, N.
        block_steps: Steps of a block, S.
        chunk_envs: Environments of a chunk, C.
    """

    field: Field
    num_envs: int
    block_steps: int
    chunk_envs: int

    @classmethod
    def plan(cls, field: Field, num_envs: int, block_steps: int) -> FieldGrid:
        """Chunks of half of ``CHUNK_NBYTES`` to all of it, so that the least is padded.

        Padding costs as much as environments do where the values do not compress.
        """
        most = min(num_envs, max(1, CHUNK_NBYTES // (field.row_nbytes * block_steps)))
        sizes = range(most, most // 2, -1)
        return cls(field, num_envs, block_steps, min(sizes, key=lambda size: -num_envs % size))

    @property
    def chunks(self) -> int:
        """Chunks of one shard."""
        return -(-self.num_envs // self.chunk_envs)

    @property
    def padded_envs(self) -> int:
        """Environments a shard has room for, at least ``num_envs``."""
        return self.chunks * self.chunk_envs

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Shape of a staged block: ``(padded_envs, block_steps[, dim])``."""
        return (self.padded_envs, self.block_steps, *self.field.row_shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in memory: ``(chunk_envs, block_steps[, dim])``."""
        return (self.chunk_envs, self.block_steps, *self.field.row_shape)

    @property
    def chunk_nbytes(self) -> int:
        """Raw bytes of a chunk."""
        return self.chunk_envs * self.block_steps * self.field.row_nbytes

    @property
    def shard_nbytes(self) -> int:
        """Raw bytes of a shard, padding included."""
        return self.chunks * self.chunk_nbytes

    def rows(self, chunk: int) -> slice:
        """The environments of a chunk, among ``padded_envs``."""
        return slice(chunk * self.chunk_envs, (chunk + 1) * self.chunk_envs)

    def shard_name(self, block: int) -> str:
        """File name of a block's shard inside the field's folder.

        Zarr's default chunk keys with the separator ".": a flat folder gains one name a block,
        so one directory sync makes it last; with "/" it would be three new folders, each synced.
        """
        return ".".join(["c", str(block), *("0" for _ in self.buffer_shape[1:])])

    def shard_key(self, block: int) -> str:
        """Where a block's shard lies in the store."""
        return f"{self.field.name}/{self.shard_name(block)}"
