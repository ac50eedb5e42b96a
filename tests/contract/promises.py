"""What a collection in Isaac Lab promises, of any generation: tests, and what they look at.

Tests with a number are of that fault of MOSAIC's script, by the table of docs/mosaic.md. A module
that imports them has a fixture ``session``, a collection in which each motion is begun once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.store.schema import FAILED, TRUNCATED


class Spy:
    """A policy that notes what it acts on."""

    def __init__(self, policy: Any) -> None:
        self._policy, self.shapes = policy, policy.shapes
        self.acted: list[torch.Tensor] = []

    def act(self, observations: Observations) -> PolicyOutput:
        self.acted.append(observations["policy"].clone())
        return self._policy.act(observations)

    def reset(self, dones: torch.Tensor) -> None:
        self._policy.reset(dones)


@dataclass
class Witness:
    """What the environment itself said; row t is before, or of, step t.

    The step right behind an explicit reset begins the episodes, and is no row.

    Attributes:
        motions: Each environment's motion, by its file's own number.
        frames: The command's frame.
        over: Whether the command shows a copy of the last frame.
        students, teachers: The groups that were returned before the step.
        dones, failed: Environments that the step ended, and by a fall.
        begun: Environments that each step behind an explicit reset ended.
    """

    motions: list[list[int]] = field(default_factory=list)
    frames: list[list[int]] = field(default_factory=list)
    over: list[list[bool]] = field(default_factory=list)
    students: list[torch.Tensor] = field(default_factory=list)
    teachers: list[torch.Tensor] = field(default_factory=list)
    dones: list[list[bool]] = field(default_factory=list)
    failed: list[list[bool]] = field(default_factory=list)
    begun: list[list[bool]] = field(default_factory=list)
    _begins: bool = False

    def watch(
        self, env: Any, fall: Callable[[Sequence[int]], object], falls: Mapping[int, Sequence[int]]
    ) -> None:
        """Look over the environment's shoulder; before given steps, let environments fall."""
        command, step, reset = env.command_manager.get_term("motion"), env.step, env.reset

        def watched_reset(*args: Any, **kwargs: Any) -> Any:
            self._begins = True
            return reset(*args, **kwargs)

        def watched_step(actions: torch.Tensor) -> Any:
            if not self._begins:
                paths = command.motion_dir_loader.motion_paths
                numbers = [int(Path(path).stem.split("_")[1]) for path in paths]
                self.motions.append([numbers[i] for i in command.env_motion_indices.tolist()])
                self.frames.append(command.time_steps.tolist())
                self.over.append(command.motion_end_buf.tolist())
                self.teachers.append(self._latest["policy"])
                self.students.append(self._latest[STUDENT])
                fall(falls.get(len(self.dones), ()))
            returned = step(actions)
            self._latest = {name: returned[0][name].clone() for name in ("policy", STUDENT)}
            dones = (returned[2] | returned[3]).tolist()
            if self._begins:
                self.begun.append(dones)
            else:
                self.dones.append(dones)
                self.failed.append((returned[2] & ~returned[3]).tolist())
            self._begins = False
            return returned

        env.step, env.reset = watched_step, watched_reset


@dataclass
class Session:
    """What came of a collection."""

    data: TrajectoryDataset
    spy: Spy
    witness: Witness
    queue: MotionQueue

    def read(self, name: str) -> np.ndarray[Any, Any]:
        return self.data.read(name)

    @property
    def lengths(self) -> list[int]:
        """Frames of each motion, by its file."""
        return [len(np.load(m["path"])["joint_pos"]) for m in self.data.metadata["motions"]]


def test_5_every_row_knows_its_motion_and_frame(session: Session) -> None:
    valid = session.read("valid_mask")
    motions, frames = np.array(session.witness.motions), np.array(session.witness.frames)
    assert np.array_equal(session.read("motion_id")[valid], motions[valid])
    assert np.array_equal(session.read("motion_frame")[valid], frames[valid])


def test_6_idle_environments_are_masked(session: Session) -> None:
    valid, witness = session.read("valid_mask"), session.witness
    # Each motion is begun once, in the order of resets.
    running, busy, begun = np.zeros_like(valid), [True] * valid.shape[1], valid.shape[1]
    for step, dones in enumerate(witness.dones):
        running[step] = busy
        for env in np.flatnonzero(dones):
            busy[env] = begun < len(session.lengths)
            begun += 1
    running &= ~np.array(witness.over)
    assert np.array_equal(valid, running)
    assert not valid.all()
    assert session.data.num_valid == int(running.sum())


def test_7_falls_and_resets_begin_another_trajectory(session: Session) -> None:
    ids, valid = session.read("trajectory_id"), session.read("valid_mask")
    dones, failed = np.array(session.witness.dones), np.array(session.witness.failed) & valid
    assert np.array_equal(ids[1:] != ids[:-1], dones[:-1] & valid[:-1])
    # A fall on the motion's last frame would be none: the motion was at its end.
    how = session.read("trajectory_end")
    assert np.array_equal(how == FAILED, failed)
    assert np.array_equal(how == TRUNCATED, dones & valid & ~failed)
    assert session.queue.fell == failed.sum()
    assert session.queue.completed + session.queue.fell == len(session.lengths)


def test_each_motion_is_recorded_once_from_its_first_frame_to_its_last(session: Session) -> None:
    """As in training, the command has moved on by one: every reset is within a step."""
    valid, ids = session.read("valid_mask"), session.read("trajectory_id")
    motions, frames = session.read("motion_id"), session.read("motion_frame")
    fallen = set(motions[np.array(session.witness.failed) & valid].tolist())
    for motion, length in enumerate(session.lengths):
        rows = (motions == motion) & valid
        assert len(np.unique(ids[rows])) == 1
        assert np.array_equal(frames[rows], np.arange(1, rows.sum() + 1))
        assert rows.sum() == length - 1 if motion not in fallen else rows.sum() < length


def test_8_observations_are_the_acted_ones_and_the_environments_own(session: Session) -> None:
    recorded = session.read("observations")
    assert np.array_equal(recorded, torch.stack(session.spy.acted).numpy())
    assert np.array_equal(recorded, torch.stack(session.witness.teachers).numpy())
    students = torch.stack(session.witness.students).numpy()
    assert np.array_equal(session.read("student_observations"), students)
