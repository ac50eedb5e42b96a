"""Where a process records: one store, or a rank's in a folder that several ranks share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mosaic_collect.collection.claims import Claims, take_over
from mosaic_collect.collection.motion_queue import MotionQueue, SharedMotionQueue
from mosaic_collect.collection.origin import Origin, refuse_changes
from mosaic_collect.errors import InputError, StoreError, WriteError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.ranks import MAX_RANK, Address, Destination, Recording, blobs_at
from mosaic_collect.store.view import AUTO, Resume, existing_state, goes_on

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Rank:
    """One of several processes.

    Attributes:
        number: Among all, from 0 on.
        local: Among those of its machine.
        world_size: How many there are.
    """

    number: int
    local: int
    world_size: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Rank:
        """By torchrun's variables, or by those that a script sets like them.

        Raises:
            InputError: One of them is missing, or no such number.
        """
        told = {name: environ.get(name, "") for name in _NAMES}
        wrong = [f"{name}={value!r}" for name, value in told.items() if not value.isdecimal()]
        if wrong:
            raise InputError(
                f"distributed: expected torchrun's {', '.join(_NAMES)} in the environment, got "
                f"{', '.join(wrong)}"
            )
        number, local, world_size = (int(value) for value in told.values())
        if not number < world_size <= MAX_RANK + 1:
            raise InputError(
                f"distributed: expected RANK below WORLD_SIZE, and that at most {MAX_RANK + 1}, "
                f"got {number} and {world_size}"
            )
        return cls(number, local, world_size)

    def device(self, asked: str | None, cuda: bool) -> str:
        """Where it computes: as asked for, or a CUDA device of its own on its machine."""
        return asked or (f"cuda:{self.local}" if cuda else "cpu")

    def seed(self, seed: int, run: int) -> int:
        """A seed of its own, and of each of its runs."""
        numbers = np.random.SeedSequence([seed % (1 << 32), self.number, run])
        return int(numbers.generate_state(1)[0])


@dataclass(frozen=True)
class RankStore:
    """Where a process records: a store of its own, or its rank's beside those of others.

    Attributes:
        whole: The store; with a rank, the folder of all ranks.
        rank: Number of this process among several; None: it is alone.
    """

    whole: Blobs
    rank: Rank | None = None

    @classmethod
    def of(
        cls, output: Address, distributed: bool, environ: Mapping[str, str] = os.environ
    ) -> RankStore:
        """By what was asked for, and by torchrun's variables.

        Raises:
            InputError: A path that is none, or ranks are wanted and the variables are missing.
        """
        return cls(blobs_at(output, "output"), Rank.of(environ) if distributed else None)

    @cached_property
    def store(self) -> Blobs:
        """The store of this process."""
        return self._member.blobs

    @property
    def writer_options(self) -> dict[str, Any]:
        """What a ``TrajectoryWriter`` of ``whole`` is told of the rank."""
        if self.rank is None:
            return {}
        return {"rank": self.rank.number, "world_size": self.rank.world_size}

    @property
    def ranks(self) -> tuple[int, int]:
        """This process's number, and how many there are."""
        return (0, 1) if self.rank is None else (self.rank.number, self.rank.world_size)

    def known(self, resume: Resume, overwrite: bool = False) -> TrajectoryDataset | None:
        """The store to be gone on with; None if one is to be made.

        Where ranks go on, those that have no store yet begin one: there may be more than before.

        Args:
            resume: Whether to resume, as for ``TrajectoryWriter``.
            overwrite: Replace a store that is there.

        Raises:
            InputError: No such value of ``resume``, or both it and ``overwrite``, or ``overwrite``
                of a rank: the others' claims would stay.
            StoreError: The store is missing, or exists and should not; or it cannot be read, or
                does not belong to this folder of ranks.
        """
        self._member.check(None)
        if overwrite and self.rank is not None:
            raise InputError("overwrite: expected only without distributed, for the ranks share it")
        if overwrite and resume:
            raise InputError("overwrite: expected it without resume, got both")
        if resume is True and self.rank is not None and Recording.find(self.whole).is_multi_rank:
            resume = AUTO
        if not goes_on(self.store, resume):
            # Refuses what is there, before motions are claimed.
            existing_state(self.store, resume, overwrite)
            return None
        known = TrajectoryDataset(self.store)
        self._member.check(known.state if known.num_envs else None)
        return known

    def shared(
        self,
        queue: MotionQueue | None,
        num_envs: int,
        ledger: Mapping[str, Any],
        gone: Collection[int] = (),
    ) -> MotionQueue | None:
        """The queue of this process's motions; alone, that is all of them.

        Args:
            queue: Queue of all motions; None: the task has none.
            num_envs: Environments of this process.
            ledger: Progress in the rank's store, with which the queue was made.
            gone: Ranks that will not come back; see ``take_over``.

        Raises:
            InputError: Ranks are gone of which this is one.
            StoreLockedError: A rank that is said to be gone is at work.
            StoreError: Claims cannot be read.
        """
        if self.rank is None or queue is None:
            return queue
        claims = Claims(self.whole, *self.ranks, num_envs)
        take_over(self.whole, claims, gone, queue.present)
        return SharedMotionQueue(queue.present, claims, queue.passes, ledger)

    def begins(self, queue: MotionQueue | None) -> bool:
        """Whether there is anything to record; if not, what the store has is complete.

        Raises:
            StoreExistsError: Something else lies where the ranks' folder is to be.
            StoreError, OSError: Claims cannot be made.
        """
        if self.rank is None:
            return True
        Recording.make(self.whole)
        if queue is None or queue.prepare():
            return True
        if self.store.is_taken() and TrajectoryDataset(self.store).status != COMPLETE:
            TrajectoryWriter(self.whole, resume=True, **self.writer_options).close()
        return False

    def refuse_changes(
        self, known: TrajectoryDataset | None, origin: Origin, allowed: Collection[str] | None
    ) -> None:
        """Check that this collection fits to its store, and to the first of the others.

        Args:
            known: The store, if it is there.
            origin: Provenance of the run to come.
            allowed: Names that may differ, as for ``origin.refuse_changes``.

        Raises:
            StoreMismatchError: A store was collected with other settings.
        """
        if self.rank is None:
            refuse_changes(known, origin, allowed)
            return
        # A later run may have another number of ranks; which one this is, the store's folder tells.
        allowed = (*(allowed or ()), "ranks")
        refuse_changes(known, origin, allowed)
        found = Recording.find(self.whole)
        for blobs in found.stores.values() if found.is_multi_rank else ():
            other = TrajectoryDataset(blobs) if blobs.address != self.store.address else None
            if other is not None and other.num_envs:
                refuse_changes(other, origin, allowed)
                return

    @cached_property
    def _member(self) -> Destination:
        return Destination.of(self.whole, *(self.ranks if self.rank is not None else ()))


@contextlib.contextmanager
def giving_back(queue: MotionQueue | None) -> Iterator[None]:
    """A run, behind which motions that it did not end are given back, if it still has its store."""
    try:
        yield
    except (StoreError, WriteError):
        raise  # the store may be in the hands of another process of this rank
    except BaseException:
        _give_back(queue)
        raise
    _give_back(queue)


def _give_back(queue: MotionQueue | None) -> None:
    if queue is not None:
        queue.give_back()
