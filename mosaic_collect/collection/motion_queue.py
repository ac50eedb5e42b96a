"""Motions still to be recorded: which comes next, how trajectories ended, and which rank has which.

The progress, a plain dict, is committed with the steps: what it counts is in the store, and what
was running when a run ended is run again. Ranks share motions by claims, each made once and never
changed:

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

import heapq
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from mosaic_collect.collection.motions import Motion, recorded_motions
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    StoreLockedError,
    StoreMismatchError,
)
from mosaic_collect.reading.numbering import ended_motions
from mosaic_collect.store.blobs import Blobs, read_all
from mosaic_collect.store.parsing import strict_json
from mosaic_collect.store.ranks import CLAIMS, MAX_RANK, part_name
from mosaic_collect.store.view import read_state

_LOOK_SECONDS = 1.0  # between looks for motions that other ranks gave back


class MotionQueue:
    """Hands out motions, least recorded first, and keeps the ledger.

    With ``claims`` ranks share the motions: no two have the same. When a rank begins it takes no
    more than an even share, for others may be about to; from then on each environment that is free
    takes one motion more, those that others gave back among them. What it has once, it has until it
    is through with it or gives it back, in a later run, too. Claims that cannot be read or made
    raise ``StoreError`` or ``OSError`` in all calls.

    Attributes:
        motions: The motions of the ``ledger`` of an earlier run, then new ones; the index of a
            motion is its ``motion_id`` in the store. Those that were not given are not run.
        passes: Number of trajectories to record per motion; None: no end.
    """

    def __init__(
        self,
        motions: Sequence[Motion],
        passes: int | None = None,
        ledger: Mapping[str, Any] | None = None,
        claims: Claims | None = None,
    ) -> None:
        ledger, self.passes, self._claims = ledger or {}, passes, claims
        self._recorded = {m.sha256: m for m in recorded_motions(ledger)}
        given = {m.sha256: m for m in motions}
        # Motions keep their ids, also those whose files are gone, which are not run.
        self.motions = list({**self._recorded, **given}.values())
        self._ids = {m.sha256: i for i, m in enumerate(self.motions) if m.sha256 in given}
        self._completed = _told(ledger, "completed", len(self.motions))
        self._fell = _told(ledger, "fell", len(self.motions))
        self._asked, self._begun = 0, False
        mine = {motion: index for motion, index in self._ids.items() if self._has(motion)}
        self._heap = [(self._ended(index), index) for index in mine.values()]
        heapq.heapify(self._heap)
        if claims is not None:
            claims.share_out(self._ids, mine)

    @property
    def present(self) -> list[Motion]:
        """Motions whose files were given."""
        return [self.motions[index] for index in self._ids.values()]

    def take(self, motions: Sequence[Motion]) -> None:
        """Replace motions by these of the same content, as a task is going to play them.

        One that was played with other frames in an earlier run is refused: ``motion_frame`` would
        mean two things.
        """
        for now in motions:
            before = self._recorded.get(now.sha256, now)
            if (before.frames, before.resampled) != (now.frames, now.resampled):
                raise StoreMismatchError(
                    f"motion: {now.path} was recorded with {_frames(before)}, now it would be with "
                    f"{_frames(now)}: go on with or without resample=True as before"
                )
        taken = {m.sha256: m for m in motions}
        self.motions = [taken.get(m.sha256, m) for m in self.motions]

    def copy(self) -> MotionQueue:
        """Another queue of the same motions and counts, in which none is running."""
        return MotionQueue(self.present, self.passes, self.ledger())

    def next(self) -> int:
        """The id of the motion to run next; -1 if none is left."""
        self._asked += 1
        if not self.prepare():
            return -1
        count, index = self._heap[0]
        heapq.heapreplace(self._heap, (count + 1, index))
        return index

    def put_back(self, motion: int) -> None:
        """A motion that was handed out has begun no trajectory: it is to be run again."""
        self._heap = [(count - (index == motion), index) for count, index in self._heap]
        heapq.heapify(self._heap)

    def prepare(self) -> bool:
        """Whether there is a motion to run next; this rank has it then."""
        claims = self._claims
        if claims is not None and not self._begun:
            self._begun = True
            self._heap = [e for e in self._heap if claims.take(self.motions[e[1]].sha256)]
            heapq.heapify(self._heap)
        # A motion that nobody has comes before this rank's own, once those have a trajectory.
        if claims is not None and (not self._heap or self._heap[0][0] > 0):
            motion = claims.take_another(begins=self._asked <= claims.num_envs)
            if motion is not None:
                heapq.heappush(self._heap, (0, self._ids[motion]))
        return bool(self._heap) and (self.passes is None or self._heap[0][0] < self.passes)

    def give_back(self) -> None:
        """Let other ranks have what this one claimed and has no ended trajectory of, in any run."""
        if self._claims is not None and self._begun:
            for _, index in self._heap:
                if not self._ended(index):
                    self._claims.give_back(self.motions[index].sha256)

    @property
    def exhausted(self) -> bool:
        """Whether every motion has all its trajectories, or is another rank's."""
        return self.passes is not None and all(
            self._ended(index) >= self.passes or self._is_anothers(motion)
            for motion, index in self._ids.items()
        )

    def _has(self, motion: str) -> bool:
        """Whether it is this rank's by its claims; or by its ledger, if the claim was lost."""
        claims = self._claims
        if claims is None:
            return True
        owner = claims.owner(motion)
        if owner is None and self._ended(self._ids[motion]):
            return claims.take(motion)
        return owner == claims.rank

    def _is_anothers(self, motion: str) -> bool:
        claims = self._claims
        return claims is not None and claims.owner(motion) not in (None, claims.rank)

    def _ended(self, index: int) -> int:
        return self._completed[index] + self._fell[index]

    def finish(self, motion: int, completed: bool) -> None:
        """A trajectory of the motion ended, at its last frame or by a fall."""
        (self._completed if completed else self._fell)[motion] += 1

    @property
    def completed(self) -> int:
        """Trajectories that reached their motion's end."""
        return sum(self._completed)

    @property
    def fell(self) -> int:
        """Trajectories that ended before."""
        return sum(self._fell)

    def ledger(self) -> dict[str, Any]:
        """The motions, which never change, and per motion how many trajectories ended how."""
        return {"motions": [m.entry() for m in self.motions], "motion_counts": self.counts()}

    def counts(self) -> dict[str, list[int]]:
        """The changing part of the ledger: trajectories that reached the end, or fell, by id."""
        return {"completed": list(self._completed), "fell": list(self._fell)}


def refuse_gone(
    motions: Sequence[Motion],
    told: Mapping[str, Any],
    store: str,
    allow_changed: Collection[str] | None = (),
) -> None:
    """Refuse a store whose metadata ``told`` name motions that are gone or changed.

    With ``allow_changed`` None the error does not say how to allow it.
    """
    have = {motion.sha256 for motion in motions}
    gone = [motion.path for motion in recorded_motions(told) if motion.sha256 not in have]
    if gone and "motions" not in (allow_changed or ()):
        hint = "" if allow_changed is None else "; allow_changed='motions' goes on without them"
        raise StoreMismatchError(
            f"{store} was collected from {len(gone)} motions that are gone or changed, "
            f"{gone[0]} first{hint}"
        )


def _told(ledger: Mapping[str, Any], key: str, motions: int) -> list[int]:
    """A ledger's counts, with zeros for the motions that are new."""
    entry = ledger.get("motion_counts", {})
    counts = entry.get(key, []) if isinstance(entry, Mapping) else None
    if not isinstance(counts, Sequence) or not all(type(n) is int and n >= 0 for n in counts):
        raise StoreMismatchError(f"motion_counts: expected {key} as numbers, got {entry!r:.80}")
    return [*counts, *[0] * (motions - len(counts))]


def _frames(motion: Motion) -> str:
    return f"{motion.frames} frames" + (", resampled" if motion.resampled else " of its own")


_log = logging.getLogger(__name__)
_LOCK_TRIES, _LOCK_SECONDS = 20, 0.5
_CLAIM = re.compile(r"([0-9a-f]{64})\.(\d{1,9})")
_MOST_NBYTES = 4096


class Claims:
    """The claims in a folder of ranks, as one of them sees and makes them.

    Motions are named by their SHA-256. A damaged claim is a ``CorruptStoreError`` of any call.
    """

    def __init__(self, whole: Blobs, rank: int, world_size: int, num_envs: int) -> None:
        self.whole, self.rank, self.world_size, self.num_envs = whole, rank, world_size, num_envs
        self._run = secrets.token_hex(8)
        #: The highest number of a motion's claims that was read; they have no gaps.
        self._seen = self._listed()
        #: Motions to ask for, the next one last; and those that another rank had when asked for.
        self._wanted: list[str] = []
        self._others: dict[str, None] = {}
        self._looked, self._asked_since = -_LOOK_SECONDS, 0

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

    def share_out(self, motions: Collection[str], mine: Collection[str]) -> None:
        """Choose the order in which to ask for motions but ``mine``: an even share first."""
        ordered = sorted(motions)
        share = ordered[self.rank % self.world_size :: self.world_size]
        self._wanted = [m for m in dict.fromkeys([*share, *ordered]) if m not in mine][::-1]
        self._at_first = -(-len(motions) // self.world_size)  # to take before one has ended

    def take_another(self, begins: bool) -> str | None:
        """Claim one motion more, if there is one; ``begins``: no environment ended one yet."""
        if begins and self._at_first <= 0:
            return None
        if not self._wanted:
            self._look_for_given_back()
        while self._wanted:
            motion = self._wanted.pop()
            if self.take(motion):
                self._at_first -= 1
                return motion
            self._others[motion] = None
        return None

    def _look_for_given_back(self) -> None:
        """Ask again for motions of other ranks; not at each reset, as a look lists all claims."""
        now = time.monotonic()
        self._asked_since += 1
        waited = now - self._looked >= _LOOK_SECONDS or self._asked_since >= self.num_envs
        if self._others and waited:
            self._looked, self._asked_since = now, 0
            listed = self._listed()
            self._wanted = [m for m in self._others if listed.get(m, -1) > self._seen.get(m, -1)]
            for motion in self._wanted:
                del self._others[motion]

    def _listed(self) -> dict[str, int]:
        """The highest number of each motion's claims."""
        highest: dict[str, int] = {}
        for found in filter(None, map(_CLAIM.fullmatch, self.whole.names(CLAIMS))):
            highest[found[1]] = max(highest.get(found[1], 0), int(found[2]))
        return highest

    def _last(self, motion: str) -> tuple[int, int | None, str | None]:
        """The last claim's number, rank and run; -1, None and None where there is none."""
        number, rank, run = self._seen.get(motion, 0) - 1, None, None
        while True:
            try:
                data = read_all(self.whole, _key(motion, number + 1), _MOST_NBYTES)
            except FileNotFoundError:
                return number, rank, run
            number += 1
            self._seen[motion], (rank, run) = number, self._parsed(data, motion)

    def _parsed(self, data: bytes, motion: str) -> tuple[int | None, str | None]:
        where = f"{self.whole.address}/{CLAIMS}/{motion}"
        claim = strict_json(data, where)
        entries = claim if isinstance(claim, dict) else {}
        rank, run = entries.get("rank", ""), entries.get("run")
        known = rank is None or (type(rank) is int and 0 <= rank <= MAX_RANK)
        if known and (run is None or type(run) is str):
            return rank, run
        raise CorruptStoreError(f"{where}: expected whose claim it is, got {data[:80]!r}")

    def _create(self, motion: str, number: int, claim: dict[str, Any]) -> bool:
        return self.whole.create(_key(motion, number), json.dumps(claim).encode())


def _key(motion: str, number: int) -> str:
    return f"{CLAIMS}/{motion}.{number}"


def take_over(claims: Claims, ranks: Iterable[int], motions: Sequence[Motion]) -> int:
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
        blobs = claims.whole.within(part_name(rank))
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
    for _ in range(_LOCK_TRIES):
        try:
            return blobs.claim(lambda: None)
        except StoreLockedError as error:
            locked = error
            time.sleep(_LOCK_SECONDS)
    raise locked
