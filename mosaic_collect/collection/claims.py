"""Which rank records which motion: claims that all ranks see, each made once and never changed.

    claims/<sha256>.0    {"rank": 2}       rank 2 has the motion
    claims/<sha256>.1    {"rank": null}    it is given back, nothing of it having ended
    claims/<sha256>.2    {"rank": 0}       rank 0 has it

The last one counts. A claim is a blob that is created only if it is not there, so of many who try
at once one has it, on a shared disk as on an object store, without a lock and without a clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.parts import CLAIMS, MAX_RANK
from mosaic_collect.store.strict_json import strict_json

_NAME = re.compile(r"([0-9a-f]{64})\.(\d{1,9})")
_MOST_NBYTES = 4096


class Claims:
    """The claims in a folder of ranks, as one of them sees and makes them.

    Args:
        whole: The folder's blobs.
        rank: Who claims.
        world_size: How many ranks there are now.
        num_envs: This rank's; so many motions are asked for at once when it begins.
    """

    def __init__(self, whole: Blobs, rank: int, world_size: int, num_envs: int) -> None:
        self._blobs, self.rank, self.world_size, self.num_envs = whole, rank, world_size, num_envs
        #: The highest number of a motion's claims that was seen; they have no gaps.
        self._seen: dict[str, int] = {}
        for found in filter(None, map(_NAME.fullmatch, whole.names(CLAIMS))):
            self._seen[found[1]] = max(self._seen.get(found[1], 0), int(found[2]))

    def owner(self, motion: str) -> int | None:
        """Who has a motion, by its SHA-256; None: nobody.

        Raises:
            CorruptStoreError: A claim is damaged.
        """
        return self._last(motion)[1]

    def take(self, motion: str) -> bool:
        """Have a motion, if nobody else has it; whether this rank has it now."""
        while True:
            number, owner = self._last(motion)
            if owner is not None:
                return owner == self.rank
            if self._create(motion, number + 1, self.rank):
                return True

    def give_back(self, motion: str, owner: int | None = None) -> None:
        """A motion is nobody's again, if it was this rank's, or that of ``owner``."""
        number, now = self._last(motion)
        if now == (self.rank if owner is None else owner):
            self._create(motion, number + 1, None)

    def share(self, motions: Collection[str]) -> list[str]:
        """Motions in the order in which this rank asks for them: an even share first."""
        ordered = sorted(motions)
        own = ordered[self.rank % self.world_size :: self.world_size]
        return [*own, *sorted(set(ordered) - set(own))]

    def at_first(self, motions: Collection[str]) -> int:
        """How many motions this rank takes before any of its environments was through with one."""
        return -(-len(motions) // self.world_size)

    def _last(self, motion: str) -> tuple[int, int | None]:
        """The last claim's number, and whose it is; -1 and None where there is none."""
        number, owner = self._seen.get(motion, 0) - 1, None
        while True:
            try:
                data = read_all(self._blobs, _key(motion, number + 1), _MOST_NBYTES)
            except FileNotFoundError:
                return number, owner
            number += 1
            self._seen[motion], owner = number, self._rank_in(data, motion)

    def _rank_in(self, data: bytes, motion: str) -> int | None:
        where = f"{self._blobs.address}/{CLAIMS}/{motion}"
        told = strict_json(data, where)
        rank = told.get("rank", "") if isinstance(told, dict) else ""
        if rank is None or (type(rank) is int and 0 <= rank <= MAX_RANK):
            return rank
        raise CorruptStoreError(f"{where}: expected whose claim it is, got {data[:80]!r}")

    def _create(self, motion: str, number: int, rank: int | None) -> bool:
        return self._blobs.create(_key(motion, number), json.dumps({"rank": rank}).encode())


def _key(motion: str, number: int) -> str:
    return f"{CLAIMS}/{motion}.{number}"
