"""A rank's share of an epoch, and its cutting into batches; and a worker's share of that."""

from __future__ import annotations

from dataclasses import dataclass

from mosaic_collect.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Share:
    """Pairs ``lo..hi`` of an epoch's row of tiles, in batches.

    All ranks have equally many batches, so that none waits for another in vain. Their pairs differ
    by one at most; where that would be a batch more, the last batches are smaller by some pairs.

    Attributes:
        lo: The first pair.
        hi: The one behind the last.
        batch_size: Pairs of a batch.
        batches: How many.
        drop_last: Whether all batches are whole, and what is left at the end is left out.
    """

    lo: int
    hi: int
    batch_size: int
    batches: int
    drop_last: bool

    @classmethod
    def of_rank(
        cls, num_pairs: int, rank: int, world_size: int, batch_size: int, drop_last: bool
    ) -> Share:
        """What a rank has of so many pairs.

        Raises:
            InputError: A rank would have none, or an empty batch where others have one more pair.
        """
        least, most = num_pairs // world_size, -(-num_pairs // world_size)
        batches = least // batch_size if drop_last else -(-most // batch_size)
        if not batches or least < batches:
            raise InputError(
                f"{num_pairs} pairs for {world_size} ranks in batches of {batch_size}"
                f"{' with drop_last' if drop_last else ''}: a rank would have none, or an empty one"
            )
        lo, hi = (r * num_pairs // world_size for r in (rank, rank + 1))
        return cls(lo=lo, hi=hi, batch_size=batch_size, batches=batches, drop_last=drop_last)

    def bound(self, batch: int) -> int:
        """Pairs before a batch."""
        whole = batch * self.batch_size
        return whole if self.drop_last else min(whole, self.hi - self.lo - self.batches + batch)

    def of_worker(self, worker: int, workers: int) -> tuple[int, int]:
        """A worker's batches: the first, and the one behind the last."""
        return worker * self.batches // workers, (worker + 1) * self.batches // workers
