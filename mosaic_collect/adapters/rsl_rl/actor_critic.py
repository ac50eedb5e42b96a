"""Policies of rsl_rl 2.x and 3.x: one module holds actor, critic and action distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint, check_keys
from mosaic_collect.adapters.rsl_rl.runners import Shapes, loading, policy_output, select
from mosaic_collect.collection.protocols import Observations, PolicyOutput

#: Parts of the module that say nothing about actions: values, and a student's teacher.
_NOT_ACTING = ("critic", "memory_c.", "teacher.", "memory_t.")


class ActorCriticPolicy:
    """An actor-critic module in evaluation mode.

    Args:
        module: Of ``runner.alg.policy``.
        shapes: The observation groups that it reads.
        prepare: Makes the module's input of those groups.
        deterministic: Act by the mean; if not, by a sample.
    """

    def __init__(
        self,
        module: Any,
        shapes: Shapes,
        prepare: Callable[[dict[str, torch.Tensor]], Any],
        deterministic: bool = True,
    ) -> None:
        self.shapes = dict(shapes)
        self._module = module.eval()
        self._prepare = prepare
        self._deterministic = deterministic

    def act(self, observations: Observations) -> PolicyOutput:
        rows = select(observations, self.shapes)
        with torch.no_grad():
            # act, not act_inference: it leaves mean and sigma behind, and each call of either
            # advances a recurrent memory.
            sample = self._module.act(self._prepare(rows))
            mean, sigma = self._module.action_mean, self._module.action_std
        return policy_output(sample, mean, sigma, self._deterministic)

    def reset(self, dones: torch.Tensor) -> None:
        with torch.no_grad():
            self._module.reset(dones.bool())


def load_actor(module: Any, checkpoint: Checkpoint) -> None:
    """Load all of ``module`` that acts; its critic stays as it is, so any critic will do.

    Raises:
        InputError: The checkpoint's actor has other parameters than the module's.
    """
    own = module.state_dict()
    found = {
        k: v
        for k, v in checkpoint.state("model_state_dict").items()
        if not k.startswith(_NOT_ACTING)
    }
    acting = [key for key in own if not key.startswith(_NOT_ACTING)]
    check_keys(checkpoint.path, acting, found)
    with loading(checkpoint.path, module):
        module.load_state_dict({**own, **found})
