"""What is left of an epoch, or of a stream, from a position on."""

from __future__ import annotations

from collections.abc import Generator

from mosaic_collect.sampling.batches import Batch
from mosaic_collect.sampling.epochs import epoch_batches
from mosaic_collect.sampling.options import SamplerOptions
from mosaic_collect.sampling.order import EpochOrder
from mosaic_collect.sampling.pool import Pool
from mosaic_collect.sampling.position import Position
from mosaic_collect.sampling.seen import Seen
from mosaic_collect.sampling.snapshot import PoolPlan
from mosaic_collect.sampling.stream import Place, Row, StreamRules, stream_batches


def rest_of_epoch(
    pool: Pool, plan: PoolPlan, options: SamplerOptions, seen: Seen, at: Position
) -> Generator[Batch, None, None]:
    """A worker's batches of its rank's share."""
    share = seen.share()
    first, stop = share.of_worker(at.worker, at.workers)
    origin = share.bound(first)
    bounds = [share.bound(batch) - origin for batch in range(first, stop + 1)]
    lo = share.lo + origin
    hi = lo + bounds[-1]
    order = EpochOrder(seen.tiles.counts, options.seed, at.epoch, lo, hi, plan.active)
    return epoch_batches(pool, order, bounds[at.batches :])


def rest_of_stream(
    pool: Pool, plan: PoolPlan, options: SamplerOptions, seen: Seen, at: Position
) -> Generator[tuple[Batch, Place], None, None]:
    """Endless, each with the place behind it; a worker is as a rank among more of them."""
    row = Row(
        num_tiles=len(seen.tiles.tiles),
        seed=options.seed,
        epoch=at.epoch,
        rank=options.rank * at.workers + at.worker,
        world_size=options.world_size * at.workers,
    )
    rules = StreamRules(
        batch_size=options.batch_size,
        uses=options.uses,
        replace=options.replace,
        active=plan.active,
    )
    return stream_batches(pool, row, rules, at.place)
