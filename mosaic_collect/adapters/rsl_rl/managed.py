"""A simulation of environments with managers, as Isaac Lab has them and mjlab after it."""

from __future__ import annotations

import torch

from mosaic_collect.adapters.rsl_rl.reference import disagreement
from mosaic_collect.adapters.rsl_rl.vec_env import VecEnvSimulation
from mosaic_collect.collection.observation_terms import Term, group_terms

#: What the command is called that says which motion to follow.
MOTION = "motion"


class ManagedSimulation(VecEnvSimulation):
    """A ``mosaic_collect.collection.record.GroupedSimulation``."""

    @property
    def group_dims(self) -> dict[str, int]:
        """Width of each observation group whose rows are flat."""
        # Of a group whose terms are not side by side, a list of their shapes.
        dims = self.env.unwrapped.observation_manager.group_obs_dim
        flat = {n: s for n, s in dims.items() if isinstance(s, tuple) and len(s) == 1}
        return {name: int(shape[0]) for name, shape in flat.items()}

    def disagreement(self, active: torch.Tensor) -> str | None:
        env = self.env.unwrapped
        if MOTION not in env.command_manager.active_terms:
            return None
        return disagreement(env.command_manager.get_term(MOTION), env.step_dt, active)

    def failed_by(self, failed: torch.Tensor) -> dict[str, int]:
        manager = self.env.unwrapped.termination_manager
        counts = {n: int((manager.get_term(n) & failed).sum()) for n in manager.active_terms}
        return {name: count for name, count in counts.items() if count}

    @property
    def group_terms(self) -> dict[str, list[Term]]:
        """The terms of those flat groups that they fill, in the order of columns."""
        manager, dims = self.env.unwrapped.observation_manager, self.group_dims
        if not hasattr(manager, "active_terms"):
            return {}
        found = {name: group_terms(manager, name) for name in dims if name in manager.active_terms}
        return {n: t for n, t in found.items() if sum(term.width for term in t) == dims[n]}
