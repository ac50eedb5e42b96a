"""Who follows which motion in MOSAIC's command, and which rows count.

For a motion of L frames, MOSAIC's command shows frames 1 to L-1 behind a reset within a step, then
a copy of the last one with ``motion_end_buf`` set:

    frame before the step    1   2  ...  L-1 | L-1 again
    restart asked                         x  |            so the copy never comes
    row is valid             x   x        x  |

The robot starts on frame 0, or on a random one, and the command advances right after the reset, as
in training. Behind an explicit reset it would not, so no trajectory begins by one: ``simulation``.
Behind a random start on the last frame comes the copy at once: that start has no row, so its motion
goes back to the queue, and the next step resets the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.adapters.isaaclab.cfg import TRACKER
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.protocols import MotionTracker, StepResult
from mosaic_collect.errors import InputError

_NONE = -1


class MosaicMotionTracker(MotionTracker):
    """Tracker of MOSAIC's motion command, which has loaded all motions of the queue.

    Attaches itself to the unwrapped environment, whose terms ``prepare_env_cfg`` made ask it. A
    command that has not loaded one of the motions, or is of another kind, is an ``InputError``.
    ``max_trajectories`` is of all runs.

    Attributes:
        restart: Environments whose trajectory ends with the next step, ``(num_envs,)`` bool.
        hands_out: Whether a reset gives an environment its next motion.
        motion_ids: The queue's id of each environment's motion, ``(num_envs,)`` int32; -1: none.
    """

    def __init__(
        self,
        env: Any,
        queue: MotionQueue,
        steps_per_trajectory: int | None = None,
        max_trajectories: int | None = None,
    ) -> None:
        super().__init__(queue)
        self._command = env.command_manager.get_term("motion")
        self._limit, self._left = steps_per_trajectory, max_trajectories
        if self._left is not None:  # may still begin
            self._left = max(self._left - queue.completed - queue.fell, 0)
        self.hands_out = True
        self._loaded = _loaded_at(self._command, queue).to(env.device)
        shape, device = (env.num_envs,), env.device
        self.motion_ids = torch.full(shape, _NONE, dtype=torch.int32, device=device)
        self.restart = torch.zeros(shape, dtype=torch.bool, device=device)
        self._rows = torch.zeros(shape, dtype=torch.long, device=device)
        setattr(env, TRACKER, self)

    @property
    def frames(self) -> torch.Tensor:
        """Frame of its motion that each environment is at, ``(num_envs,)`` int32."""
        frames: torch.Tensor = self._command.time_steps
        return frames.to(torch.int32)

    def active(self) -> torch.Tensor:
        found: torch.Tensor = (self.motion_ids != _NONE) & ~self._command.motion_end_buf
        return found

    def has_work(self) -> bool:
        return bool((self.motion_ids != _NONE).any())

    def describe(self) -> Mapping[str, torch.Tensor]:
        """Return the extra fields, and choose who restarts with the step to come."""
        command, follows = self._command, self.motion_ids != _NONE
        over = command.motion_end_buf
        self._refuse_strays(follows & ~over)
        self._put_back(self.motion_ids[follows & over])
        lengths = command.motion_lengths[command.env_motion_indices]
        due = (command.time_steps >= lengths - 1) | over
        if self._limit is not None:
            due |= self._rows + 1 >= self._limit
        # Who has no motion stays as it is.
        self.restart[:] = due & follows
        return super().describe()

    def following(self) -> tuple[torch.Tensor, ...]:
        return self.motion_ids.clone(), self.frames, self.restart.clone()

    def _refuse_strays(self, active: torch.Tensor) -> None:
        """A command may draw motions of its own at a reset; rows would tell another's."""
        found = self._command.env_motion_indices
        strays = (active & (found != self._loaded[self.motion_ids.long()])).nonzero()[:, 0]
        if len(strays):
            env, paths = int(strays[0]), _paths(self._command)
            given = self.queue.motions[int(self.motion_ids[env])].path
            raise InputError(
                f"command 'motion': expected it to follow in environment {env} what it was given, "
                f"{given}, got {paths[int(found[env])]}"
            )

    def settle(self, result: StepResult, active: torch.Tensor) -> Mapping[str, Any]:
        self.restart[:] = False
        self._rows += 1
        self._rows[result.dones] = 0
        return super().settle(result, active)

    def assign(self, env_ids: Any) -> None:
        """Give the next motions to environments that are being reset, if any are handed out."""
        if not self.hands_out:
            return
        rows = torch.arange(len(self.motion_ids), device=self.motion_ids.device)
        rows = rows if env_ids is None else rows[env_ids]
        drawn = torch.tensor([self._next() for _ in range(len(rows))], dtype=torch.int32)
        self.motion_ids[rows] = drawn.to(self.motion_ids.device)
        # Who gets none goes on with the motion it has; its rows do not count.
        given = rows[self.motion_ids[rows] != _NONE]
        self._command.env_motion_indices[given] = self._loaded[self.motion_ids[given].long()]
        self._rows[rows] = 0

    def _put_back(self, motions: torch.Tensor) -> None:
        """Have motions that were over before their first row run again."""
        for motion in motions.tolist():
            self.queue.put_back(motion)
            self._left = None if self._left is None else self._left + 1

    def _next(self) -> int:
        if self._left == 0:
            return _NONE
        motion = self.queue.next()
        if self._left is not None and motion != _NONE:
            self._left -= 1
        return motion


def _loaded_at(command: Any, queue: MotionQueue) -> torch.Tensor:
    """Index of each motion in the command, int64; -1 for one that is gone since an earlier run."""
    places = {path: index for index, path in reversed(list(enumerate(_paths(command))))}
    absent = [m.file for m in queue.present if m.file not in places]
    if absent:
        raise InputError(
            f"motion: expected the command to load {absent[0]} and {len(absent) - 1} more, which "
            f"it did not; it has {len(places)} files"
        )
    lengths = command.motion_lengths.tolist()
    changed = [m.path for m in queue.present if lengths[places[m.file]] != m.frames]
    if changed:
        raise InputError(f"motion: {changed[0]} has changed since it was looked at")
    return torch.tensor([places.get(m.file, _NONE) for m in queue.motions], dtype=torch.long)


def _paths(command: Any) -> list[str]:
    loader = getattr(command, "motion_dir_loader", None)
    if loader is None:
        raise InputError(
            f"command 'motion': expected MOSAIC's with motion_dir_loader, "
            f"got {type(command).__name__}"
        )
    return [str(path) for path in loader.motion_paths]
