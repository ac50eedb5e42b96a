#!/usr/bin/env python
"""Kill writers at random instants, thousands of times, and compare what is left bit for bit.

    python tests/durability/torture.py --kills 5000 --seed 7

A child process records rows whose every value says to which step, environment and field it belongs,
and tells over a pipe what the writer said is committed. It is killed (SIGKILL) while it opens or
resumes the store, while it records, or while it closes. Then the store must hold every step that
was told to be committed, none that was never added, all right; and the next child resumes it. The
seed fixes what children do and when they are to be killed; how far they are by then, no seed can.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import StoreNotFoundError
from mosaic_collect.reading.verify import trajectory_problems
from mosaic_collect.store.files import is_temp_name
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.store.schema import ENDED, FAILED, TRAJECTORY_END, TRAJECTORY_ID
from tests import helpers
from tests.durability.rig import check_rows
from tests.helpers import REPO
from tests.service import s3_folder

PHASES = ("open", "record", "close")
_MOST_STEPS = 150
_HUNG_SECONDS = 60.0
_REPORT = struct.Struct("<cq")  # shorter than PIPE_BUF: written in one piece or not at all
_STARTED, _OPENED, _ADDING, _COMMITTED, _CLOSING, _CLOSED = b"s", b"o", b"a", b"c", b"x", b"z"


@dataclass(frozen=True)
class Shape:
    """What kind of store is recorded."""

    num_envs: int
    block_steps: int
    compressor: str
    dims: tuple[int | None, ...]
    encode_in: str = "threads"

    @classmethod
    def drawn(cls, chance: random.Random, encode_in: str = "threads") -> Shape:
        dims = tuple(chance.choice((None, 1, 3, 40)) for _ in range(chance.randint(1, 3)))
        compressor = chance.choice(("lz4", "zstd", "none"))
        return cls(chance.randint(1, 9), chance.randint(1, 6), compressor, dims, encode_in)

    @property
    def schema(self) -> Schema:
        fields = (Field(name=f"f{i}", dim=d) for i, d in enumerate(self.dims))
        return Schema(tuple(fields)).with_ends()

    def open(self, path: str, threads: int) -> TrajectoryWriter:
        return helpers.open_writer(
            path,
            self.num_envs,
            self.schema,
            self.block_steps,
            compressor=self.compressor,
            resume="auto" if is_url(path) else os.path.exists(path),
            threads=threads,
            encode_in=self.encode_in,
        )


def ends(shape: Shape, steps: range) -> np.ndarray:
    """After which steps trajectories end, ``(len(steps), num_envs)``."""
    step, env = np.arange(steps.start, steps.stop)[:, None], np.arange(shape.num_envs)
    return np.asarray((step * 11 + env * 7) % 13 == 0)


def how(shape: Shape, steps: range) -> np.ndarray:
    """How they end: uint8 ``(len(steps), num_envs)``, 0 for trajectories that go on."""
    code = np.where(np.arange(shape.num_envs) % 2, FAILED, ENDED)
    return np.asarray(ends(shape, steps) * code, np.uint8)


# -- the child -------------------------------------------------------------------------------------


def record(path: str, shape: Shape, pipe: int, chance: random.Random) -> None:
    """Record until the parent has had enough."""

    def tell(what: bytes, number: int) -> None:
        os.write(pipe, _REPORT.pack(what, number))

    tell(_STARTED, 0)
    writer = shape.open(path, chance.randint(1, 2))
    tell(_OPENED, writer.num_steps)
    for _ in range(chance.choice((0, 1, 5, 30, _MOST_STEPS))):
        step = writer.num_steps
        if step >= _MOST_STEPS:
            break
        tell(_ADDING, step + 1)
        add(writer, shape, step, early=chance.random() < 0.1)
        if chance.random() < 0.1:
            writer.commit()
        tell(_COMMITTED, writer.stats.committed_steps)
    tell(_CLOSING, writer.num_steps)
    writer.close(complete=writer.num_steps >= _MOST_STEPS)
    tell(_COMMITTED, writer.stats.committed_steps)
    tell(_CLOSED, writer.num_steps)


def add(writer: TrajectoryWriter, shape: Shape, step: int, early: bool = False) -> None:
    """Add one step, perhaps commit it, and end the trajectories that end after it."""
    helpers.add(writer, step, masks=True)
    if early:
        writer.commit()
    told = how(shape, range(step, step + 1))[0]
    writer.end_trajectories(told != 0, told == FAILED)


def spawn(path: str, shape: Shape, seed: float) -> tuple[int, int]:
    """The same in another interpreter, as object storage cannot be used in a fork."""
    source, target = os.pipe()
    code = (
        "import random; from tests.durability.torture import Shape, record; "
        f"record({path!r}, {shape!r}, {target}, random.Random({seed}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[target], cwd=REPO)
    os.close(target)
    process.returncode = 0  # it is waited for by its number
    return process.pid, source


def fork(path: str, shape: Shape, chance: random.Random) -> tuple[int, int]:
    """Start a child; its process number and the pipe it reports to."""
    source, target = os.pipe()
    process = os.fork()
    if process:
        os.close(target)
        return process, source
    status = 1
    try:
        os.close(source)
        record(path, shape, target, chance)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


# -- the parent ------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a child reported before it was killed."""

    committed: int
    added: int
    phase: str = "start"
    closed: bool = False

    def take(self, report: bytes) -> None:
        what, number = _REPORT.unpack(report)
        if what in (_OPENED, _COMMITTED):
            self.committed = max(self.committed, number)
        self.added = max(self.added, number)
        self.phase = {_STARTED: "open", _OPENED: "record", _CLOSING: "close"}.get(what, self.phase)
        self.closed = self.closed or what == _CLOSED


@dataclass
class Campaign:
    """Counts of what happened."""

    kills: Counter[str] = field(default_factory=Counter)
    stores: int = 0
    survived: int = 0
    steps: int = 0
    debris: int = 0
    lost: list[int] = field(default_factory=list)

    def table(self, seconds: float) -> str:
        lost = self.lost or [0]
        lines = [
            ("kills", sum(self.kills.values())),
            *((f"  while it was to {p}", self.kills[p]) for p in PHASES),
            ("children that ended before the kill", self.survived),
            ("stores", self.stores),
            ("steps recorded", self.steps),
            ("stores found with debris of a commit under way", self.debris),
            ("steps added and not committed at a kill, mean", f"{np.mean(lost):.1f}"),
            ("steps added and not committed at a kill, most", max(lost)),
            ("committed steps lost, rows wrong, resumes refused", 0),
            ("seconds", f"{seconds:.1f}"),
        ]
        return "\n".join(f"{what:<52}{number:>8}" for what, number in lines)


def kill_one(path: str, shape: Shape, chance: random.Random, known: int) -> Told:
    """Start a child, kill it in the phase drawn, and return what it had told by then."""
    phase = chance.choices(PHASES, (2, 5, 2))[0]
    delay = {"open": 0.012, "record": 0.05, "close": 0.004}[phase] * chance.random()
    if shape.encode_in == "process":
        delay *= 10  # it takes a quarter of a second to start
    if is_url(path):
        delay *= 10
        process, pipe = spawn(path, shape, chance.random())
    else:
        process, pipe = fork(path, shape, random.Random(chance.random()))
    told = Told(known, known)
    try:
        listen(pipe, told, phase, delay)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) or status == 0, f"the child failed, {told}"
        while report := os.read(pipe, _REPORT.size):
            told.take(report)
    finally:
        os.close(pipe)
    return told


def listen(pipe: int, told: Told, phase: str, delay: float) -> None:
    """Return when it is time to kill: ``delay`` after the child said it has come to ``phase``."""
    deadline = None
    while True:
        if deadline is None and told.phase in PHASES[PHASES.index(phase) :]:
            deadline = time.monotonic() + delay
        wait = _HUNG_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], wait)[0]:
            if deadline is None:
                raise AssertionError(f"the child hangs in {told}")
            return
        report = os.read(pipe, _REPORT.size)
        if not report:
            return
        told.take(report)


def inspect(path: str, shape: Shape, told: Told) -> int:
    """Compare the store with what must be there; its committed steps."""
    try:
        dataset = TrajectoryDataset(path, threads=1)
    except StoreNotFoundError:
        assert not blobs_at(path).is_taken()
        assert told.committed == 0
        return 0
    steps = dataset.num_steps
    assert told.committed <= steps <= told.added, f"{steps} steps, {told}"
    if not dataset.fields:
        return 0
    assert (dataset.num_envs, dataset.schema) == (shape.num_envs, shape.schema)
    check_rows(dataset)
    check_ids(dataset, shape)
    check_ends(dataset, shape)
    return steps


def check_ids(dataset: TrajectoryDataset, shape: Shape) -> None:
    """Ids change after an end and at a resume, and then only; none comes back."""
    ids = dataset.read(TRAJECTORY_ID)
    changes = ends(shape, range(dataset.num_steps))
    for run in dataset.state.runs[1:]:
        if run.first_step:
            changes[run.first_step - 1] = True
    assert ((ids[1:] != ids[:-1]) == changes[:-1]).all(), "trajectories are cut elsewhere"
    used = 0 if not len(ids) else np.count_nonzero(changes[:-1]) + shape.num_envs
    assert len(np.unique(ids)) == used, "an id is used twice"


def check_ends(dataset: TrajectoryDataset, shape: Shape) -> None:
    """They are as told; those of a run's last row may be lost, as ends are told after their row."""
    found, want = dataset.read(TRAJECTORY_END), how(shape, range(dataset.num_steps))
    stops = [run.first_step - 1 for run in dataset.state.runs[1:]] + [dataset.num_steps - 1]
    late = np.zeros_like(want)
    late[[step for step in stops if step >= 0]] = 1
    assert ((found == want) | (late & (found == 0))).all(), "ends differ"
    assert trajectory_problems(dataset.view.parts[0]) == [], "ends and ids contradict each other"


def has_debris(path: str) -> bool:
    """Whether a commit was cut off; in object storage there is nothing to tell it by."""
    return not is_url(path) and any(is_temp_name(n) for _, _, names in os.walk(path) for n in names)


def warm_up(folder: str) -> None:
    """Load and look up once what every child needs; children are forked when no thread is left."""
    path = os.path.join(folder, "warm.zarr")
    shape = Shape.drawn(random.Random(0))
    with shape.open(path, 1) as writer:
        add(writer, shape, 0)
    inspect(path, shape, Told(1, 1))
    while threading.active_count() > 1:
        time.sleep(0.001)


def torture(kills: int, seed: int, folder: str, encode_in: str = "threads") -> Campaign:
    """Kill until it is enough; raises AssertionError at the first wrong store."""
    if not is_url(folder):
        warm_up(folder)
    campaign, number = Campaign(), 0
    while sum(campaign.kills.values()) < kills:
        campaign.stores += 1
        path = f"{folder}/store-{campaign.stores}.zarr"
        shape = Shape.drawn(random.Random(f"{seed} {campaign.stores}"), encode_in)
        steps, complete = 0, False
        while not complete and sum(campaign.kills.values()) < kills:
            number += 1
            told = kill_one(path, shape, random.Random(f"{seed} kill {number}"), steps)
            campaign.debris += has_debris(path)
            try:
                found = inspect(path, shape, told)
            except Exception as error:
                raise AssertionError(f"seed {seed}, kill {number}, {path}: {error}") from error
            tally(campaign, told, found, steps)
            steps = found
            complete = steps >= _MOST_STEPS
        if not is_url(folder):
            shutil.rmtree(path, ignore_errors=True)
    return campaign


def tally(campaign: Campaign, told: Told, found: int, before: int) -> None:
    """Count one child's end."""
    campaign.steps += found - before
    if told.closed:
        campaign.survived += 1
    else:
        campaign.kills[told.phase] += 1
        campaign.lost.append(told.added - found)


def apart(*options: str) -> subprocess.CompletedProcess[str]:
    """The campaign in a process of its own: children are forked, which no thread survives."""
    return subprocess.run(
        [sys.executable, "-W", "error", __file__, *options],
        env={**os.environ, "PYTHONPATH": REPO},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encode-in", default="threads", help="as TrajectoryWriter's encode_in")
    parser.add_argument("--folder", help="where the stores lie; default: in memory, if there is")
    parser.add_argument("--s3", action="store_true", help="in a server on this machine")
    options = parser.parse_args()
    ram = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    start = time.monotonic()
    place = s3_folder() if options.s3 else tempfile.TemporaryDirectory(dir=options.folder or ram)
    with place as folder:
        campaign = torture(options.kills, options.seed, folder, options.encode_in)
    print(campaign.table(time.monotonic() - start))
    return 0


if __name__ == "__main__":
    sys.exit(main())
