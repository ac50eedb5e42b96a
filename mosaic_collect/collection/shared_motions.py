"""The motions of a rank: those that it claimed, and what is left when it is through with them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from mosaic_collect.collection.claims import Claims
from mosaic_collect.collection.motions import Motion, MotionQueue


class SharedMotionQueue(MotionQueue):
    """A queue of motions that ranks share: no two have the same.

    When a rank begins it takes no more than an even share, for others may be about to; from then on
    each environment that is free takes one motion more. What it has once, it has until it is
    through with it or gives it back, in a later run, too.

    Args:
        motions: All; each rank has its own ids for them.
        claims: Of this rank.
        passes: Trajectories to record of each; None: no end.
        ledger: Of this rank's store.

    Raises:
        StoreError, OSError: Claims cannot be read or made; so of all calls.
    """

    def __init__(
        self,
        motions: Sequence[Motion],
        claims: Claims,
        passes: int | None = None,
        ledger: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(motions, passes, ledger)
        self._claims = claims
        present = {self._motions[index].sha256: index for index in self._present}
        mine = {index for motion, index in present.items() if self._has(motion, index)}
        self._heap = [(self._ended(index), index) for index in mine]
        heapq.heapify(self._heap)
        #: What may be asked for, the next one last.
        others = (present[motion] for motion in claims.share(present))
        self._others = [index for index in others if index not in mine][::-1]
        self._at_first = claims.at_first(present)
        self._asked, self._handed = 0, set[int]()

    def next(self) -> int:
        self._asked += 1
        index = super().next()
        self._handed.add(index)
        return index

    def prepare(self) -> bool:
        """Whether there is a motion to run next; this rank has it then."""
        if not self._heap or self._heap[0][0] > 0:  # a motion that nobody has comes first
            self._take_one()
        return super().prepare()

    def give_back(self) -> None:
        """Let others have what this run was at, where no trajectory of it has ended in any run."""
        for index in self._handed - {-1}:
            if not self._ended(index):
                self._claims.give_back(self._motions[index].sha256)

    @property
    def exhausted(self) -> bool:
        """Whether every motion has all its trajectories, or is another rank's."""
        return self._passes is not None and all(
            self._ended(index) >= self._passes
            or self._claims.owner(self._motions[index].sha256) not in (None, self._claims.rank)
            for index in self._present
        )

    def _has(self, motion: str, index: int) -> bool:
        """Whether it is this rank's by its claims; or by its ledger, if the claim was lost."""
        if self._ended(index):
            return self._claims.take(motion)
        return self._claims.owner(motion) == self._claims.rank

    def _take_one(self) -> None:
        begins = self._asked <= self._claims.num_envs
        while self._others and (self._at_first > 0 or not begins):
            index = self._others.pop()
            if self._claims.take(self._motions[index].sha256):
                heapq.heappush(self._heap, (0, index))
                self._at_first -= 1
                return
