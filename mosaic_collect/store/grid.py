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

Of a field of several axes, images say, one environment's part of a block may be far larger than a
chunk should be. Then its steps are cut, never a row, and chunks are numbered as Zarr does, steps
first, here with ``chunk_steps`` a third of ``block_steps``:

    steps ──────────────▶
    │┌────┬────┬────┐│     what is asked for are whole images, some of them, of some environments;
    ││  0 │  2 │  4 ││     and a pair's values stay in one chunk, which counts pairs
    │├────┼────┼────┤│
    ││  1 │  3 │  5 ││
    ▼ envs
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mosaic_collect.store.schema import Field

#: Raw bytes of a chunk to aim at: large enough that handing one to a thread costs nothing beside
#: encoding it, small enough that a reader of one environment decodes little else.
CHUNK_NBYTES = 2 << 20


@dataclass(frozen=True)
class FieldGrid:
    """The cutting of one field.

    Attributes:
        field: Name, dtype and shape of a row.
        num_envs: Environments, N.
        block_steps: Steps of a block, S.
        chunk_envs: Environments of a chunk, C.
        chunk_steps: Steps of a chunk, a divisor of S; 0 stands for S.
    """

    field: Field
    num_envs: int
    block_steps: int
    chunk_envs: int
    chunk_steps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk_steps", self.chunk_steps or self.block_steps)

    @classmethod
    def plan(cls, field: Field, num_envs: int, block_steps: int) -> FieldGrid:
        """Chunks of half of ``CHUNK_NBYTES`` to all of it, so that the least is padded."""
        most = min(num_envs, max(1, CHUNK_NBYTES // (field.row_nbytes * block_steps)))
        sizes = range(most, most // 2, -1)
        chunk_envs = min(sizes, key=lambda size: -num_envs % size)
        is_cut = field.has_axes and _most_steps(field) < block_steps
        chunk_steps = _divisor(block_steps, _most_steps(field)) if is_cut else block_steps
        return cls(field, num_envs, block_steps, chunk_envs, chunk_steps)

    @property
    def env_chunks(self) -> int:
        """Chunks side by side, along the environments."""
        return -(-self.num_envs // self.chunk_envs)

    @property
    def chunks(self) -> int:
        """Chunks of one shard."""
        return self.env_chunks * (self.block_steps // self.chunk_steps)

    @property
    def padded_envs(self) -> int:
        """Environments a shard has room for, at least ``num_envs``."""
        return self.env_chunks * self.chunk_envs

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Shape of a staged block: ``(padded_envs, block_steps[, dim])``."""
        return (self.padded_envs, self.block_steps, *self.field.row_shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in memory: ``(chunk_envs, chunk_steps[, dim])``."""
        return (self.chunk_envs, self.chunk_steps, *self.field.row_shape)

    @property
    def chunk_nbytes(self) -> int:
        """Raw bytes of a chunk."""
        return self.chunk_envs * self.chunk_steps * self.field.row_nbytes

    @property
    def shard_nbytes(self) -> int:
        """Raw bytes of a shard, padding included."""
        return self.chunks * self.chunk_nbytes

    def rows(self, chunk: int) -> tuple[slice, slice]:
        """Where a chunk lies in a staged block: its environments, and its steps."""
        steps, envs = divmod(chunk, self.env_chunks)
        return (
            slice(envs * self.chunk_envs, (envs + 1) * self.chunk_envs),
            slice(steps * self.chunk_steps, (steps + 1) * self.chunk_steps),
        )

    def shard_name(self, block: int) -> str:
        """File name of a block's shard inside the field's folder; see docs/design.md, 2."""
        return ".".join(["c", str(block), *("0" for _ in self.buffer_shape[1:])])

    def shard_key(self, block: int) -> str:
        """Where a block's shard lies in the store."""
        return f"{self.field.name}/{self.shard_name(block)}"


def even_steps(fields: Iterable[Field], most: int) -> int:
    """Steps of a block, at most ``most``, of which chunks can be cut without slivers.

    Some number between half of what ``CHUNK_NBYTES`` holds and all of it must divide them, for
    every field whose steps are cut: a power of two always does.
    """
    wanted = [_most_steps(f) for f in fields if f.has_axes]
    steps = most
    while any(s < steps and 2 * _divisor(steps, s) <= s for s in wanted):
        steps -= 1
    return steps


def cut_steps(grids: Mapping[str, FieldGrid]) -> dict[str, int]:
    """``chunk_steps`` of those fields whose steps are cut."""
    cut = {name: grid.chunk_steps for name, grid in grids.items()}
    return {name: steps for name, steps in cut.items() if steps < grids[name].block_steps}


def _most_steps(field: Field) -> int:
    return max(1, CHUNK_NBYTES // field.row_nbytes)


def _divisor(number: int, most: int) -> int:
    """The largest one that is at most ``most``."""
    return next(n for n in range(min(most, number), 0, -1) if number % n == 0)
