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
from mosaic_collect.adapters.rsl_rl.managed import ManagedSimulation
from mosaic_collect.collection.protocols import Observations


class MotionSimulation(ManagedSimulation):
    """A ``mosaic_collect.collection.record.GroupedSimulation`` whose episodes all begin in a step.

    Args:
        env: The rsl_rl wrapper.
        tracker: Of its motions.
    """

    def __init__(self, env: Any, tracker: MosaicMotionTracker) -> None:
        super().__init__(env)
        self._tracker = tracker

    def reset(self) -> Observations:
        """Begin each environment's next motion, at frame 1 as in training."""
        self._tracker.hands_out = False
        super().reset()
        self._tracker.hands_out = True
        self._tracker.restart[:] = True
        begun = self.step(torch.zeros(self.num_envs, self.num_actions, device=self.device))
        self._tracker.restart[:] = False
        return begun.observations
