"""From a job's block to its shards, handed on as they are written: what the encoder thread does."""

from __future__ import annotations

from collections.abc import Callable

from mosaic_collect.recording.bell import Bell
from mosaic_collect.recording.encoding.block_encoder import BlockEncoder
from mosaic_collect.recording.encoding.field_encoder import FieldEncoder
from mosaic_collect.recording.encoding.threads import Encoding
from mosaic_collect.recording.job import Job
from mosaic_collect.recording.ring.block import Block
from mosaic_collect.store.blobs import Pending, Upload
from mosaic_collect.store.commit import Store
from mosaic_collect.store.counts import Counts, Tally
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import TRAJECTORY_END

NAME = "encoder"


class ShardWriter:
    """Writes what jobs hold, in order, and counts their rows.

    Args:
        store: Written to.
        state: As committed.
        partial: Counts of the committed rows of the last, partial block, if there is one.
        bell: Told what is being done.
        hand_on: Takes each shard, written but not finished.
    """

    def __init__(
        self,
        store: Store,
        state: StoreState,
        partial: Counts,
        bell: Bell,
        hand_on: Callable[[Pending], None],
    ) -> None:
        self._store, self._bell, self._hand_on = store, bell, hand_on
        self._grids = state.grids()
        self._encoders = {name: FieldEncoder(state.compressor) for name in self._grids}
        self._encoded = state
        before = Counts(state.num_valid, state.nonfinite) - partial
        self._tally = Tally(before, partial, state.committed_steps // state.block_steps)

    def write(self, job: Job, encoding: Encoding) -> None:
        """Write the job's shards that are not written yet, and tell it the counts.

        An end that was told after its row was committed changes one field. Nothing is left to do
        where a job is there twice, because an interrupt fell between its queueing and its
        bookkeeping.
        """
        more_rows = job.state.committed_steps > self._encoded.committed_steps
        more_ends = job.state.num_trajectories > self._encoded.num_trajectories
        if job.block is not None and more_rows:
            encoder = self._write(job.state, job.block, list(self._grids), encoding)
            self._tally = self._tally.with_block(job.block.index, encoder.counts())
        elif job.block is not None and more_ends and TRAJECTORY_END in self._grids:
            self._write(job.state, job.block, [TRAJECTORY_END], encoding)
        job.counts = self._tally.total

    def _write(
        self, state: StoreState, block: Block, names: list[str], encoding: Encoding
    ) -> BlockEncoder:
        self._bell.at(NAME, f"the copy of block {block.index} to the host")
        block.wait_ready()
        count = len(state.steps_of(block.index))
        if count < state.block_steps:
            block.clear_tail(count)
        links = self._store.blobs.links
        encoder = BlockEncoder(self._encoders, block, count, self._grids, names, links)

        def open_shard(name: str) -> Upload:
            self._bell.at(NAME, f"block {block.index} of {name}")
            twins = [twin for twin, source in encoder.twins.items() if source == name]
            return self._store.shard(state, name, block.index, twins)

        for shard in encoding.write(encoder, encoder.written, open_shard):
            self._hand_on(shard)
        for name, source in encoder.twins.items():
            self._hand_on(self._store.twin(state, name, source, block.index))
        self._encoded = state
        return encoder
