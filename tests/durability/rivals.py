"""A campaign of writers that share one path and know nothing of each other.

    python -m tests.durability.rivals --rounds 200 --seed 1

In each round some processes open the path, new or to go on or to take over, add steps, commit and
close, while others do the same and one takes the folder away now and then. Every value says which
session added it and at which step, so a row of a store tells whether it belongs there:

    session 7 opened at step 3     x[3] = 7003, x[4] = 7004, ...

At the end of a round every commit that returned is there, or its writer was told, and no store
holds rows of two recordings.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mosaic_collect import (
    Field,
    MosaicCollectError,
    Schema,
    TrajectoryDataset,
    TrajectoryWriter,
    verify_store,
)
from mosaic_collect.store.objects import is_url
from tests.helpers import REPO, buffer_mb
from tests.service import s3_folder

SCHEMA = Schema((Field(name="x", dtype="int64"),))
BLOCK_STEPS, NUM_ENVS, STRIDE = 2, 2, 1000
SESSIONS = 4  # of each process


@dataclass
class Session:
    """One writer's stay at the path.

    Attributes:
        number: Its own.
        identity: Of the store that it opened.
        first: Steps that were there.
        acknowledged: Steps of the store whose commit returned.
        told: The error that it got; "" for none.
    """

    number: int
    identity: str = ""
    first: int = 0
    acknowledged: int = 0
    told: str = ""


def live(path: str, session: Session, chance: random.Random) -> None:
    """Open, add and commit at random, close; whatever goes wrong is noted."""
    options = {"resume": chance.choice([False, "auto", "auto"]), "takeover": chance.random() < 0.3}
    try:
        with TrajectoryWriter(
            path,
            SCHEMA,
            NUM_ENVS,
            buffer_mb=buffer_mb(BLOCK_STEPS, NUM_ENVS, SCHEMA),
            commit_seconds=None,
            threads=1,
            **options,
        ) as writer:
            session.identity, session.first = writer._state.identity, writer.num_steps
            for _ in range(chance.randrange(12)):
                number = session.number * STRIDE + writer.num_steps
                writer.add_step(x=np.full(NUM_ENVS, number))
                if chance.random() < 0.3:
                    writer.commit()
                    session.acknowledged = writer.num_steps
                if chance.random() < 0.2:
                    time.sleep(chance.random() * 0.01)
        session.acknowledged = writer.num_steps
    except (MosaicCollectError, FileNotFoundError) as error:
        session.told = type(error).__name__


def child(path: str, first: int, seed: int, threads: int, locks: bool) -> None:
    """Some sessions one after the other, in each of some threads; said as JSON."""
    if not locks:
        _take_locks_away()
    done: list[Session] = []

    def run(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for at in range(SESSIONS):
            session = Session(first + number * SESSIONS + at)
            done.append(session)
            live(path, session, chance)

    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps([vars(s) for s in done]))


def _take_locks_away() -> None:
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    fcntl.flock = refuse  # type: ignore[assignment]


@dataclass
class Campaign:
    """Rounds, and what came of them."""

    folder: str
    locks: bool = True
    rounds: int = 0
    sessions: int = 0
    commits: int = 0
    told: dict[str, int] = field(default_factory=dict)

    def round(self, seed: int) -> None:
        """One round; raises AssertionError for a broken promise."""
        path = f"{self.folder}/{seed}/run.zarr"
        on_disk = not is_url(path)
        if on_disk:
            os.makedirs(os.path.dirname(path))
        chance = random.Random(seed)
        code = "from tests.durability.rivals import child; child({!r}, {}, {}, {}, {})"
        arguments = [(path, 1 + n * 100, seed * 10 + n, 1 + n % 2, self.locks) for n in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code.format(*a)],
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for a in arguments
        ]
        while any(p.poll() is None for p in processes):
            time.sleep(chance.random() * 0.3)
            if on_disk and chance.random() < 0.4:
                # Away at once, as a user means it, and whoever writes there may notice.
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, f"{path}.{time.monotonic_ns()}")
        sessions = [Session(**s) for p in processes for s in json.loads(p.communicate()[0])]
        folder = os.path.dirname(path)
        places = [os.path.join(folder, n) for n in os.listdir(folder)] if on_disk else [path]
        self._check(places, {s.number: s for s in sessions})
        if on_disk:
            shutil.rmtree(folder)

    def _check(self, places: list[str], sessions: dict[int, Session]) -> None:
        stores = {}
        for place in places:
            dataset = TrajectoryDataset(place)
            if dataset.num_steps:  # one that was moved while it was made is as if killed
                assert verify_store(dataset.path).ok, verify_store(dataset.path).problems
                x = dataset.read("x")
                assert (x == x[:, :1]).all()
                stores[dataset.state.identity] = x[:, 0].tolist()
        for rows in stores.values():
            _check_rows(rows, sessions)
        for session in sessions.values():
            self.sessions += 1
            self.commits += bool(session.acknowledged)
            self.told[session.told] = self.told.get(session.told, 0) + 1
            rows = stores.get(session.identity, [])
            there = [row // STRIDE for row in rows[session.first : session.acknowledged]]
            whole = session.acknowledged - max(session.first, 0)
            assert session.told or there == [session.number] * max(whole, 0), (session, rows)
        self.rounds += 1


def _check_rows(rows: list[int], sessions: dict[int, Session]) -> None:
    """Each row stands where its session put it, behind the rows of those before."""
    last = 0
    for step, row in enumerate(rows):
        number, at = divmod(row, STRIDE)
        assert at == step, (rows, "a row in another's place")
        session = sessions[number]
        assert session.first <= step
        assert step == session.first or number == last, (rows, "rows of two recordings")
        last = number


def main() -> None:
    """The campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-locks", action="store_true")
    parser.add_argument("--s3", action="store_true", help="in a server on this machine")
    arguments = parser.parse_args()
    with s3_folder() if arguments.s3 else tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(folder, not arguments.no_locks)
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            campaign.round(seed)
    print(vars(campaign))


if __name__ == "__main__":
    main()
