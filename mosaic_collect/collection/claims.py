"""Which rank records which motion: claims that all ranks see, each made once and never changed.

    claims/<sha256>.0    {"rank": 2, "run": "5f.."}    rank 2 has the motion
    claims/<sha256>.1    {"rank": 2, "run": "a0.."}    it still has, in a later run
    claims/<sha256>.2    {"rank": null}                it is given back, nothing of it having ended
    claims/<sha256>.3    {"rank": 0, "run": "3c.."}    rank 0 has it

The last one counts. A claim is a blob that is created only if it is not there, so of many who try
at once one has it, on a shared disk as on an object store, without a lock and without a clock. Each
run claims anew what its rank has: only the run that made the last claim can give the motion back,
so a process that was taken for dead cannot give back what its successor runs.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mosaic_collect.collection.motions import Motion
from mosaic_collect.errors import CorruptStoreError, InputError, StoreLockedError
from mosaic_collect.reading.numbering import ended_motions
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.parsing import strict_json
from mosaic_collect.store.ranks import CLAIMS, MAX_RANK, part_name
from mosaic_collect.store.view import read_state

_log = logging.getLogger(__name__)
_TRIES, _SECONDS = 20, 0.5
_NAME = re.compile(r"([0-9a-f]{64})\.(\d{1,9})")
_MOST_NBYTES = 4096


class Claims:
    """The claims in a folder of ranks, as one of them sees and makes them.

    Motions are named by their SHA-256. A damaged claim is a ``CorruptStoreError`` of any call.
    """

    def __init__(self, whole: Blobs, rank: int, world_size: int, num_envs: int) -> None:
        self._blobs, self.rank, self.world_size, self.num_envs = whole, rank, world_size, num_envs
        self._run = secrets.token_hex(8)
        #: The highest number of a motion's claims that was read; they have no gaps.
        self._seen = self._listed()

    def owner(self, motion: str) -> int | None:
        """The rank that has a motion; None: nobody."""
        return self._last(motion)[1]

    def take(self, motion: str) -> bool:
        """Claim a motion for this run, if no other rank has it; whether this run has it now."""
        while True:
            number, owner, run = self._last(motion)
            if owner is not None and (owner != self.rank or run == self._run):
                return owner == self.rank
            if self._create(motion, number + 1, {"rank": self.rank, "run": self._run}):
                return True

    def give_back(self, motion: str, rank: int | None = None) -> None:
        """Leave a motion to all ranks, if this run has it, or any run of another rank's."""
        number, owner, run = self._last(motion)
        mine = owner == self.rank and run == self._run
        if owner is not None and (mine or owner == rank):
            self._create(motion, number + 1, {"rank": None})

    def unread(self) -> set[str]:
        """Motions that were claimed or given back since their last claim was read."""
        return {m for m, number in self._listed().items() if number > self._seen.get(m, -1)}

    def _listed(self) -> dict[str, int]:
        """The highest number of each motion's claims."""
        highest: dict[str, int] = {}
        for found in filter(None, map(_NAME.fullmatch, self._blobs.names(CLAIMS))):
            highest[found[1]] = max(highest.get(found[1], 0), int(found[2]))
        return highest

    def _last(self, motion: str) -> tuple[int, int | None, str | None]:
        """The last claim's number, rank and run; -1, None and None where there is none."""
        number, rank, run = self._seen.get(motion, 0) - 1, None, None
        while True:
            try:
                data = read_all(self._blobs, _key(motion, number + 1), _MOST_NBYTES)
            except FileNotFoundError:
                return number, rank, run
            number += 1
            self._seen[motion], (rank, run) = number, self._parsed(data, motion)

    def _parsed(self, data: bytes, motion: str) -> tuple[int | None, str | None]:
        where = f"{self._blobs.address}/{CLAIMS}/{motion}"
        claim = strict_json(data, where)
        entries = claim if isinstance(claim, dict) else {}
        rank, run = entries.get("rank", ""), entries.get("run")
        known = rank is None or (type(rank) is int and 0 <= rank <= MAX_RANK)
        if known and (run is None or type(run) is str):
            return rank, run
        raise CorruptStoreError(f"{where}: expected whose claim it is, got {data[:80]!r}")

    def _create(self, motion: str, number: int, claim: dict[str, Any]) -> bool:
        return self._blobs.create(_key(motion, number), json.dumps(claim).encode())


def _key(motion: str, number: int) -> str:
    return f"{CLAIMS}/{motion}.{number}"


def take_over(whole: Blobs, claims: Claims, ranks: Iterable[int], motions: Sequence[Motion]) -> int:
    """Leave what lost ranks claimed and did not finish to the others; returns how many motions.

    Only by an explicit word of the user: nobody can tell a dead rank from a slow one. The stores of
    those ranks stay as they are, and so do the motions of which a trajectory has ended there.

    Raises:
        InputError: This rank itself is among ``ranks``.
        StoreLockedError: Such a rank is at work.
        StoreError: Its store cannot be read.
    """
    found = 0
    for rank in ranks:
        if rank == claims.rank:
            raise InputError(f"take_over: expected other ranks, got this one, {rank}")
        held = [m.sha256 for m in motions if claims.owner(m.sha256) == rank]
        blobs = whole.within(part_name(rank))
        if held and blobs.is_there():
            release = _lock(blobs)
            try:
                state = read_state(blobs)
                ended = set() if state is None else set(ended_motions(state.metadata))
                free = [motion for motion in held if motion not in ended]
            finally:
                release()
        else:
            free = held
        for motion in free:
            claims.give_back(motion, rank)
        _log.warning("%d motions of rank %d are given to the others", len(free), rank)
        found += len(free)
    return found


def _lock(blobs: Blobs) -> Callable[[], None]:
    """Lock a store that no writer may have; other ranks may be looking at it just now."""
    for _ in range(_TRIES):
        try:
            return blobs.claim(lambda: None)
        except StoreLockedError as error:
            locked = error
            time.sleep(_SECONDS)
    raise locked
