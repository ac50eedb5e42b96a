"""The motions of a rank: those that it claimed, and what is left when it is through with them."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mosaic_collect.collection.claims import Claims
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion

_SECONDS = 1.0  # between looks for motions that other ranks gave back


class SharedMotionQueue(MotionQueue):
    """A queue of motions that ranks share: no two have the same.

    When a rank begins it takes no more than an even share, for others may be about to; from then on
    each environment that is free takes one motion more, those that others gave back among them.
    What it has once, it has until it is through with it or gives it back, in a later run, too.

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
        #: Motions to ask for, the next one last; and those that another rank had when asked for.
        self._others = [present[m] for m in claims.share(present) if present[m] not in mine][::-1]
        self._taken: set[int] = set()
        self._at_first = claims.at_first(present)
        self._begun, self._asked = False, 0
        self._looked, self._asked_since = -_SECONDS, 0

    def next(self) -> int:
        self._asked += 1
        return super().next()

    def prepare(self) -> bool:
        """Whether there is a motion to run next; this rank has it then."""
        if not self._begun:
            self._begun = True
            self._heap = [(n, index) for n, index in self._heap if self._take(index)]
            heapq.heapify(self._heap)
        if not self._heap or self._heap[0][0] > 0:  # a motion that nobody has comes first
            self._take_one()
        return super().prepare()

    def give_back(self) -> None:
        """Let others have what this rank claimed and has no ended trajectory of, in any run."""
        for _, index in self._heap if self._begun else ():
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
        owner = self._claims.owner(motion)
        if owner is None and self._ended(index):
            return self._claims.take(motion)
        return owner == self._claims.rank

    def _take(self, index: int) -> bool:
        return self._claims.take(self._motions[index].sha256)

    def _take_one(self) -> None:
        begins = self._asked <= self._claims.num_envs
        if begins and self._at_first <= 0:
            return
        if not self._others:
            self._look_for_given_back()
        while self._others:
            index = self._others.pop()
            if self._take(index):
                heapq.heappush(self._heap, (0, index))
                self._at_first -= 1
                return
            self._taken.add(index)

    def _look_for_given_back(self) -> None:
        """Ask again for motions of other ranks; not at each reset, as a look lists all claims."""
        now = time.monotonic()
        self._asked_since += 1
        waited = now - self._looked >= _SECONDS or self._asked_since >= self._claims.num_envs
        if self._taken and waited:
            self._looked, self._asked_since = now, 0
            changed = self._claims.unread()
            self._others = [i for i in self._taken if self._motions[i].sha256 in changed]
            self._taken.difference_update(self._others)
