"""mjlab's motion command with a queue: each environment follows a motion of its own.

All motions lie end to end in one array; an environment's ``time_steps`` points into it:

    frame   0 ......... 125 126 ............ 300
            └ motion 0 ───┘ └ motion 1 ───────┘      time_steps = start of its motion + frame

A termination on a motion's last frame resets the environment, and the reset asks the queue for the
next motion. So an environment never runs past its motion's end, where mjlab would teleport it
without a word. Written against mjlab 1.6 (tasks/tracking/mdp/commands.py).
"""

from __future__ import annotations

from typing import Any

import torch
from mjlab.tasks.tracking.mdp import MotionCommandCfg
from mjlab.tasks.tracking.mdp.commands import MotionCommand, MotionLoader

from mosaic_collect.collection.acting import FIRST
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import ARRAYS, Motion
from mosaic_collect.collection.protocols import MotionTracker
from mosaic_collect.errors import InputError

_NO_RESAMPLING_S = 1.0e9  # a timer would put a robot on another motion, without a word


class QueuedMotionCommand(MotionCommand):  # type: ignore[misc]
    """``MotionCommand`` over several motions, assigned by a queue at every reset.

    Attributes:
        queue: Queue of the next reset; may be replaced by one of the same motions.
        motion_ids: The motion that each environment follows, ``(N,)`` int32.
        idle: Environments without a motion to follow, ``(N,)`` bool.
    """

    def __init__(self, cfg: Any, env: Any, queue: MotionQueue, start: str = FIRST) -> None:
        super().__init__(cfg, env)
        self.queue, self._start = queue, start
        loaded = [self._load(m) for m in queue.present]
        for name in ARRAYS:
            setattr(self.motion, name, torch.cat([getattr(one, name) for one in loaded]))
        # None of one that an earlier run knew and that is gone; nobody will follow it.
        here = {m.sha256 for m in queue.present}
        steps = [m.frames if m.sha256 in here else 0 for m in queue.motions]
        lengths = torch.tensor(steps, device=self.device)
        self.motion.time_step_total = int(lengths.sum())
        self.ends = torch.cumsum(lengths, 0)
        self.starts = self.ends - lengths
        self._any_motion = queue.motions.index(queue.present[0])
        self.motion_ids = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self.idle = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def _load(self, motion: Motion) -> Any:
        """A motion's arrays, of as many frames as it was when it was looked at."""
        loaded = MotionLoader(motion.file, self.body_indexes, self.device)
        if loaded.time_step_total != motion.frames:
            raise InputError(
                f"motion: {motion.path} has changed since it was looked at: expected "
                f"{motion.frames} frames, got {loaded.time_step_total}"
            )
        return loaded

    @property
    def frames(self) -> torch.Tensor:
        """Frame of its motion that each environment follows, ``(N,)`` int32."""
        frames: torch.Tensor = self.time_steps - self.starts[self.motion_ids.long()]
        return frames.to(torch.int32)

    def at_end(self) -> torch.Tensor:
        """Environments on their motion's last frame, ``(N,)`` bool."""
        last: torch.Tensor = self.ends[self.motion_ids.long()] - 1
        at_end: torch.Tensor = self.time_steps >= last
        return at_end

    def _uniform_sampling(self, env_ids: torch.Tensor) -> None:
        """Start on a frame of the queue's next motion, where mjlab would draw one of its own."""
        drawn = [self.queue.next() for _ in range(len(env_ids))]
        motions = torch.tensor(drawn, dtype=torch.int32, device=self.device)
        self.idle[env_ids] = motions < 0
        # An idle environment goes on with some motion that is there; its rows do not count.
        self.motion_ids[env_ids] = torch.where(motions < 0, self._any_motion, motions)
        motions = self.motion_ids[env_ids].long()
        self.time_steps[env_ids] = self.starts[motions] + self._first_frames(motions)

    def _first_frames(self, motions: torch.Tensor) -> torch.Tensor:
        """Frame 0 of each motion, or any but its last, on which a trajectory would have no row."""
        if self._start == FIRST:
            return torch.zeros_like(motions)
        choices = (self.ends - self.starts)[motions] - 1
        drawn: torch.Tensor = (torch.rand(len(motions), device=self.device) * choices).long()
        return drawn.clamp(max=choices - 1).clamp(min=0)  # rand is below 1, its product may not be


def queued_cfg(cfg: MotionCommandCfg, queue: MotionQueue, start: str = FIRST) -> Any:
    """The command's config, built as a ``QueuedMotionCommand`` that starts on the reference."""

    class QueuedMotionCommandCfg(type(cfg)):  # type: ignore[misc]
        def build(self, env: Any) -> QueuedMotionCommand:
            return QueuedMotionCommand(self, env, queue, start)

    fields = {name: getattr(cfg, name) for name in cfg.__dataclass_fields__}
    fields.update(
        motion_file=queue.present[0].file,
        sampling_mode="uniform",  # the branch whose hook is overridden
        resampling_time_range=(_NO_RESAMPLING_S, _NO_RESAMPLING_S),
        joint_position_range=(0.0, 0.0),
        pose_range={},
        velocity_range={},
        debug_vis=False,
    )
    return QueuedMotionCommandCfg(**fields)


class QueuedMotionTracker(MotionTracker):
    """The ``EpisodeTracker`` of a ``QueuedMotionCommand``."""

    def __init__(self, command: QueuedMotionCommand) -> None:
        super().__init__(command.queue)
        self._command = command

    def active(self) -> torch.Tensor:
        return ~self._command.idle

    def following(self) -> tuple[torch.Tensor, ...]:
        command = self._command
        return command.motion_ids.clone(), command.frames, self.active(), command.at_end()
