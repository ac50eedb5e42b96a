"""The module of rsl_rl 2.x and 3.x: actor, critic and action distribution in one."""

from __future__ import annotations

from typing import Any

from mosaic_collect.adapters.rsl_rl.actor import Forward
from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint, check_keys
from mosaic_collect.adapters.rsl_rl.runners import loading

#: Parts of the module that say nothing about actions: values, and a student's teacher.
_NOT_ACTING = ("critic", "memory_c.", "teacher.", "memory_t.")


def forward(module: Any, observations: Any) -> Forward:
    """Ask it once."""
    # act, not act_inference: it leaves mean and sigma behind, and each call of either advances a
    # recurrent memory.
    sample = module.act(observations)
    return sample, module.action_mean, module.action_std


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
