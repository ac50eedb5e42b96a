"""Run several policies side by side in one simulation, and count who reaches the end.

Each lane has environments of its own, one behind the other, and each environment one trajectory:

    environments   0 ............ 31   32 ........... 63   64 ........... 95
    lanes          expert              expert, noise 0.1   student
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from mosaic_collect.collection.protocols import Observations, Simulation

#: A function from the observations of the lane's environments to their actions; and the standard
#: deviation of the noise added to each action, in its units.
Lane: TypeAlias = tuple[Callable[[Observations], torch.Tensor], float]


def run_lanes(
    simulation: Simulation,
    lanes: Sequence[Lane],
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
) -> list[int]:
    """Run one trajectory in each environment; count those of each lane that reached their end.

    The lanes share the environments evenly. A trajectory that ends by time, as those of motions do
    on their last frame, has reached its end. ``seed`` is of the lanes' noise; ``on_step`` is called
    after each step.
    """
    each = simulation.num_envs // len(lanes)
    rows = [slice(i * each, (i + 1) * each) for i in range(len(lanes))]
    generator = torch.Generator(simulation.device).manual_seed(seed)
    observations = simulation.reset()
    ended = torch.zeros(simulation.num_envs, dtype=torch.bool, device=simulation.device)
    reached = ended.clone()
    while not bool(ended.all()):
        parts = []
        for (act, sigma), part in zip(lanes, rows, strict=True):
            seen = {n: observations[n][part] for n in observations.keys()}  # noqa: SIM118  TensorDict
            with torch.no_grad():
                actions = act(seen)
            noise = torch.randn(actions.shape, generator=generator, device=actions.device)
            parts.append(actions + sigma * noise)
        result = simulation.step(torch.cat(parts))
        reached |= result.dones & result.time_outs & ~ended
        ended |= result.dones
        observations = result.observations
        if on_step is not None:
            on_step()
    return [int(reached[part].sum()) for part in rows]
