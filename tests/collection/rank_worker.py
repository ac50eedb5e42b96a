"""One of torchrun's ranks, with a simulation that is easy to follow: ``rank_worker.py FOLDER``.

--motions N --envs N    of so many motions of 5 to 11 frames, in so many environments
--kill RANK STEP        that rank kills itself there, in its first attempt
--gone RANK ...         ranks that will not come back
--meet RANK             wait in the first step until that rank has joined
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed

from mosaic_collect.cli import parse
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion
from mosaic_collect.collection.protocols import MotionTracker, Observations
from mosaic_collect.collection.ranks import RankStore, giving_back
from mosaic_collect.collection.record import record
from mosaic_collect.recording.signals import termination_as_exit
from mosaic_collect.recording.writer import TrajectoryWriter
from tests.collection.toys import ToyPolicy, ToySimulation

MEMBER = "claims/rank-{:05d}"  # made in the folder by a rank that joins


def toy_motions(count: int) -> list[Motion]:
    """Motions without files, of different lengths."""
    hashes = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(count))
    return [Motion(f"/m/{n}.npz", sha256, 5 + n % 7) for n, sha256 in enumerate(hashes)]


class QueuedToy(ToySimulation):
    """Each environment follows a motion of a queue, and asks for the next at its end."""

    def __init__(self, num_envs: int, queue: MotionQueue) -> None:
        super().__init__([[1]] * num_envs)
        self.queue, self.motion = queue, self.episode
        self.tracker = QueuedToyTracker(self)

    def reset(self) -> Observations:
        for env in range(self.num_envs):
            self._assign(env)
        return self._observe()

    def _assign(self, env: int) -> None:
        motion = self.queue.next()
        self.idle[env], self.motion[env], self.frame[env] = motion < 0, max(motion, 0), 1

    def _advance(self, env: int) -> None:
        last = self.queue.motions[int(self.motion[env])].frames - 1
        self._dones[env] = self._time_outs[env] = bool(self.frame[env] == last)
        if self._dones[env]:
            self._assign(env)
        else:
            self.frame[env] += 1


class QueuedToyTracker(MotionTracker):
    """Of a ``QueuedToy``."""

    def __init__(self, simulation: QueuedToy) -> None:
        super().__init__(simulation.queue)
        self._simulation = simulation

    def active(self) -> torch.Tensor:
        return ~self._simulation.idle

    def following(self) -> tuple[torch.Tensor, ...]:
        toy = self._simulation
        return toy.motion.clone(), toy.frame.clone(), ~toy.idle


def collect(folder: str, arguments: argparse.Namespace) -> None:
    seat = RankStore.of(folder, distributed=True)
    known = seat.known("auto")
    told = known.metadata if known else {}
    queue = seat.queue(toy_motions(arguments.motions), 1, told, arguments.envs, arguments.gone)
    origin = {"simulator": "toy", "task": "toy", "ranks": list(seat.ranks)}
    seat.refuse_changes(known, origin, ())
    if not seat.begins(queue):
        return
    simulation = QueuedToy(arguments.envs, queue)
    kill = arguments.kill if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" else None

    def on_step(writer: TrajectoryWriter) -> None:
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        while (
            arguments.meet is not None and not Path(folder, MEMBER.format(arguments.meet)).exists()
        ):
            time.sleep(0.02)
        if writer.num_steps % 4 == 0:
            writer.commit()
        if kill == [seat.ranks[0], writer.num_steps]:
            os.kill(os.getpid(), signal.SIGKILL)

    with giving_back(queue):
        record(
            simulation,
            ToyPolicy(),
            seat.whole,
            origin,
            1000,
            known,
            on_step,
            buffer_mb=0.05,
            **seat.writer_options,
        )


def by_command(command: list[str]) -> list[str]:
    """This program's arguments for a command line of ``mosaic-collect``."""
    assert command[0] == "collect"
    _, given = parse(command)
    assert (given["distributed"], given["resume"]) == (True, "auto")
    return [given["output"], "--envs", str(given["num_envs"])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--motions", type=int, default=20)
    parser.add_argument("--envs", type=int, default=2)
    parser.add_argument("--kill", type=int, nargs=2)
    parser.add_argument("--gone", type=int, nargs="+", default=[])
    parser.add_argument("--meet", type=int)
    is_command = sys.argv[1] == "--command"
    arguments = parser.parse_args(by_command(sys.argv[2:]) if is_command else None)
    grouped = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    if grouped:  # which nothing here needs; as a simulator's own code may do
        torch.distributed.init_process_group("gloo")
    with termination_as_exit():
        collect(arguments.folder, arguments)
    if grouped:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
