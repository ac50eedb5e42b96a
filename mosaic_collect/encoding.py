"""From a block to its shards, in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from mosaic_collect.encoder import BlockEncoder
from mosaic_collect.shard import write_chunks
from mosaic_collect.shard_file import ShardFile
from mosaic_collect.workers import WorkerPool

#: Opens the file of a field's shard.
OpenShard = Callable[[str], ShardFile]


class Encoding(Protocol):
    """Who makes shards of blocks, for one thread: first ``begin``, last ``close``."""

    def begin(self) -> None:
        """Start what works for it alone."""

    def write(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[ShardFile]:
        """Encode a block's fields and write them; what is not yielded is abandoned.

        Args:
            encoder: Of the block.
            names: Its fields to be written, in this order.
            open_shard: Opens a field's file.
        """

    def close(self) -> None:
        """End what works for it alone."""


class ThreadEncoding:
    """Chunks are encoded by a pool, some ahead, and written in order by the calling thread."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def begin(self) -> None:
        """The pool is another's."""

    def write(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[ShardFile]:
        names = list(names)
        results = self._pool.map_ahead(encoder.encode, encoder.tasks(names))
        for name in names:
            shard = open_shard(name)
            encoded = (next(results) for _ in range(encoder.grids[name].chunks))
            try:
                _, nonfinite = write_chunks(encoded, shard.write)
            except BaseException:
                shard.abandon()
                raise
            encoder.add_nonfinite(name, nonfinite)
            yield shard

    def close(self) -> None:
        """The pool is another's."""
