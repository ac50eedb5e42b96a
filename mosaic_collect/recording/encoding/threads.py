"""From a block to its shards, in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from mosaic_collect.recording.encoding.block_encoder import BlockEncoder
from mosaic_collect.store.blobs import Upload
from mosaic_collect.store.shard import write_chunks
from mosaic_collect.store.workers import WorkerPool

#: Opens a field's shard for writing.
OpenShard = Callable[[str], Upload]


class Encoding(Protocol):
    """Who makes shards of blocks, for the thread that made it; last ``close``."""

    def write(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[Upload]:
        """Encode a block's fields and write them; what is not yielded is abandoned.

        Args:
            encoder: Of the block.
            names: Its fields to be written, in this order.
            open_shard: Opens a field's shard.
        """

    def close(self) -> None:
        """End what works for it alone."""


class ThreadEncoding:
    """Chunks are encoded by a pool, some ahead, and written in order by the calling thread."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def write(
        self, encoder: BlockEncoder, names: Iterable[str], open_shard: OpenShard
    ) -> Iterator[Upload]:
        names = list(names)
        results = self._pool.map_ahead(encoder.encode, encoder.tasks(names))
        for name in names:
            shard = open_shard(name)
            encoded = (next(results) for _ in range(encoder.grids[name].chunks))
            try:
                _, nonfinite = write_chunks(encoded, shard.write, shard.nbytes)
            except BaseException:
                shard.abandon()
                raise
            encoder.add_nonfinite(name, nonfinite)
            yield shard

    def close(self) -> None:
        """The pool is another's."""
