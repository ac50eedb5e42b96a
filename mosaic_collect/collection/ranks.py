"""Where a process records: one store, or a rank's in a folder that several ranks share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mosaic_collect.collection.motion_queue import Claims, MotionQueue, take_over
from mosaic_collect.collection.motions import Motion
from mosaic_collect.errors import InputError, StoreError, StoreMismatchError, WriteError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.ranks import MAX_RANK, Address, Destination, Recording, blobs_at
from mosaic_collect.store.view import AUTO, Resume, existing_state, goes_on

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class RankStore(Destination):
    """Place of a process's recording: a store of its own, or its rank's beside those of others.

    Attributes:
        local_rank: Number of this process among those of its machine.
    """

    def __init__(
        self, whole: Blobs, rank: int | None = None, local_rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(whole, rank, world_size)
        self.local_rank = local_rank

    @classmethod
    def of(
        cls, output: Address, distributed: bool, environ: Mapping[str, str] = os.environ
    ) -> RankStore:
        """The store of this process, by torchrun's variables if ``distributed``."""
        ranks = torchrun_ranks(environ) if distributed else (None,)
        return cls(blobs_at(output, "output"), *ranks)

    @property
    def writer_options(self) -> dict[str, Any]:
        """Options of a ``TrajectoryWriter`` of ``whole`` that name the rank."""
        return {"rank": self.rank, "world_size": self.world_size}

    @property
    def ranks(self) -> tuple[int, int]:
        """This process's number, and how many there are."""
        return self.rank or 0, self.world_size

    def device(self, asked: str | None, cuda: bool) -> str:
        """Device of a rank: as asked for, or a CUDA device of its own on its machine."""
        return asked or (f"cuda:{self.local_rank}" if cuda else "cpu")

    def seed(self, seed: int, run: int) -> int:
        """Seed of one run of this process; each rank and run has its own."""
        if self.rank is None:
            return seed + run
        return run_seeds(seed, self.rank, run)[0]

    def known(self, resume: Resume, overwrite: bool = False) -> TrajectoryDataset | None:
        """The store to resume; None if one is to be made, as by ranks that joined later.

        Raises:
            InputError: No such value of ``resume``, or both it and ``overwrite``, or ``overwrite``
                of a rank: the others' claims would stay.
            StoreError: The store is missing, or exists and should not; or it cannot be read, or
                does not belong to this folder of ranks.
        """
        self.check(None)
        if overwrite and self.rank is not None:
            raise InputError("overwrite: expected only without distributed, for the ranks share it")
        if resume is True and self.rank is not None and Recording.find(self.whole).is_multi_rank:
            resume = AUTO
        if overwrite or not goes_on(self.blobs, resume):
            # Refuses what is there, before motions are claimed; and to overwrite what is resumed.
            existing_state(self.blobs, resume, overwrite)
            return None
        known = TrajectoryDataset(self.blobs)
        self.check(known.state if known.num_envs else None)
        return known

    def queue(
        self,
        motions: Sequence[Motion],
        passes: int | None,
        ledger: Mapping[str, Any],
        num_envs: int,
        gone: Collection[int] = (),
    ) -> MotionQueue:
        """The queue of this process's motions, of which ranks have each only once.

        ``gone`` are ranks that will not come back; see ``take_over``.
        """
        claims = None if self.rank is None else Claims(self.whole, *self.ranks, num_envs)
        if claims is not None:
            take_over(claims, gone, motions)
        return MotionQueue(motions, passes, ledger, claims)

    def begins(self, queue: MotionQueue | None) -> bool:
        """Whether there is anything to record; if not, what the store has is complete."""
        if self.rank is None:
            return True
        Recording.make(self.whole)
        if queue is None or queue.prepare():
            return True
        if self.blobs.is_taken() and TrajectoryDataset(self.blobs).status != COMPLETE:
            TrajectoryWriter(self.whole, resume=True, **self.writer_options).close()
        return False

    def refuse_changes(
        self,
        known: TrajectoryDataset | None,
        origin: Mapping[str, Any],
        allowed: Collection[str] | None,
    ) -> None:
        """Check that a collection fits to its store, and to the first of other ranks'."""
        if self.rank is None:
            refuse_changes(known, origin, allowed)
            return
        # A later run may have another number of ranks; which one this is, the store's folder tells.
        allowed = (*(allowed or ()), "ranks")
        refuse_changes(known, origin, allowed)
        for _, blobs in self.others():
            if (other := TrajectoryDataset(blobs)).num_envs:
                refuse_changes(other, origin, allowed)
                return


def run_number(known: TrajectoryDataset | None) -> int:
    """Number of the runs that a store had, from which the next one draws other noise."""
    return len(known.state.runs) if known is not None and known.num_envs else 0


def run_seeds(seed: int, rank: int, run: int) -> list[int]:
    """Two seeds of a rank's run, of a collection's one."""
    seeds = np.random.SeedSequence([seed % (1 << 32), rank, run])
    return [int(number) for number in seeds.generate_state(2)]


def refuse_changes(
    known: TrajectoryDataset | None,
    origin: Mapping[str, Any],
    allowed: Collection[str] | None = None,
) -> None:
    """Refuse to resume a store whose provenance differs, except for ``allowed`` entries.

    With ``allowed`` None the error does not say how to allow a difference. Files are compared by
    their content.
    """
    if known is None or not known.num_envs:
        return
    before = _by_content({"acting": {}, **known.metadata})
    now = _by_content({"acting": {}, **origin})
    changed = [
        f"{name}: expected {before.get(name)!r}, got {value!r}"
        for name, value in now.items()
        if before.get(name) != value and name not in (allowed or ())
    ]
    if changed:
        hint = "" if allowed is None else "; --allow-changed NAME goes on all the same"
        raise StoreMismatchError(
            f"{known.path} was collected otherwise: {'; '.join(changed)}{hint}"
        )


def _by_content(entry: Any) -> Any:
    """The same, with a hash in the place of each file's path and hash."""
    if not isinstance(entry, Mapping):
        return entry
    if set(entry) == {"path", "sha256"}:
        return entry["sha256"]
    return {name: _by_content(value) for name, value in entry.items()}


def torchrun_ranks(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """Read the rank, the local rank and the world size from torchrun's variables."""
    told = {name: environ.get(name, "") for name in _NAMES}
    wrong = [f"{name}={value!r}" for name, value in told.items() if not value.isdecimal()]
    if wrong:
        raise InputError(
            f"distributed: expected torchrun's {', '.join(_NAMES)} in the environment, got "
            f"{', '.join(wrong)}"
        )
    rank, local_rank, world_size = (int(value) for value in told.values())
    if not rank < world_size <= MAX_RANK + 1:
        raise InputError(
            f"distributed: expected RANK below WORLD_SIZE, and that at most {MAX_RANK + 1}, "
            f"got {rank} and {world_size}"
        )
    return rank, local_rank, world_size


@contextlib.contextmanager
def giving_back(queue: MotionQueue | None) -> Iterator[None]:
    """A run, behind which motions that it did not end are given back, if it still has its store."""
    try:
        yield
    except (StoreError, WriteError):
        queue = None  # the store may be in the hands of another process of this rank
        raise
    finally:
        if queue is not None:
            queue.give_back()
