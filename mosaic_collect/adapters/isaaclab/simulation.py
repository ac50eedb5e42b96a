"""Isaac Lab's environments, begun so that no termination fires on a command nobody computed.

``env.reset()`` resets the command but does not compute it, and ``step`` computes terminations
first. So what a command sets only when it is computed, such as MOSAIC's ``body_pos_relative_w``, is
zero or of an earlier episode in the step behind an explicit reset: a termination on bodies ends
every environment there, though none fell. A reset within a step has the command computed right
behind it:

    env.reset()      no motions are handed out
    env.step(zeros)  the collector's termination ends every environment, by time
                     each gets its first motion; then the command is computed: frame 1
    env.step(...)    the first recorded row
"""

from __future__ import annotations

from typing import Any

import torch

from mosaic_collect.adapters.isaaclab.motion import MosaicMotionTracker
from mosaic_collect.adapters.rsl_rl.actor import Actor
from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.managed import ManagedSimulation
from mosaic_collect.collection.protocols import Observations
from mosaic_collect.collection.trackers import EpisodeTracker, EveryEpisode
from mosaic_collect.errors import InputError


class IsaacLabSimulation(ManagedSimulation):
    """A ``mosaic_collect.adapters.rsl_rl.collect.OpenSimulation`` whose episodes begin in a step.

    Args:
        env: The rsl_rl wrapper.
        runner_cfg: The task's training config.
        tracker: Of its motions; None: the task has none, and an explicit reset begins it.
    """

    def __init__(
        self, env: Any, runner_cfg: Any, tracker: MosaicMotionTracker | None = None
    ) -> None:
        super().__init__(env)
        self._runner_cfg, self._tracker = runner_cfg, tracker

    def push(self, velocity: torch.Tensor) -> None:
        """As of a ``PushableSimulation``: the robot that follows motions, or else "robot"."""
        scene = self.env.unwrapped.scene
        name = "robot" if self._tracker is None else self._tracker.asset_name
        robot = scene[name] if name in scene.keys() else None  # noqa: SIM118  no mapping
        if robot is None or getattr(robot, "is_fixed_base", True):
            raise InputError(f"push: expected an asset {name!r} with a free base, there is none")
        rows = velocity.any(dim=1).nonzero()[:, 0].to(torch.int32)
        if not len(rows):
            return
        moving = robot.data.root_vel_w
        moving = getattr(moving, "torch", moving)[rows]  # Isaac Lab 3 has arrays of Warp's
        moving[:, :2] += velocity[rows]
        # Of 3, which takes tensors by this name; 2.x has the other alone.
        write = getattr(robot, "write_root_velocity_to_sim_index", None)
        (write or robot.write_root_velocity_to_sim)(root_velocity=moving, env_ids=rows)

    def reset(self) -> Observations:
        """Begin each environment's next motion, at frame 1 as in training."""
        if self._tracker is None:
            return super().reset()
        self._tracker.hands_out = False
        super().reset()
        self._tracker.hands_out = True
        self._tracker.restart[:] = True
        begun = self.step(torch.zeros(self.num_envs, self.num_actions, device=self.device))
        self._tracker.restart[:] = False
        return begun.observations

    def policy(self, checkpoint: Checkpoint, by_mean: bool, trust_checkpoint: bool) -> Actor:
        """As ``load_policy``."""
        return load_policy(
            *(self.env, self._runner_cfg, checkpoint, self.device),
            deterministic=by_mean,
            trust_checkpoint=trust_checkpoint,
        )

    def tracker(self) -> EpisodeTracker:
        return self._tracker or EveryEpisode(self.num_envs, self.device)
