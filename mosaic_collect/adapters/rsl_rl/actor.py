"""A loaded network as a policy, of whichever generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import listed
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.errors import InputError

#: Group name -> what one environment's value must look like, such as ``(154,)``.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
#: A sample, the mean and the sigma of one forward, each ``(num_envs, num_actions)``.
Forward: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Actor:
    """A network in evaluation mode.

    Args:
        network: With a ``reset`` for its memories.
        shapes: The observation groups that it reads.
        forward: Asks it once, given those groups.
        deterministic: Act by the mean; if not, by a sample.
    """

    def __init__(
        self,
        network: Any,
        shapes: Shapes,
        forward: Callable[[dict[str, torch.Tensor]], Forward],
        deterministic: bool,
    ) -> None:
        self.shapes = dict(shapes)
        self._network = network.eval()
        self._forward = forward
        self._deterministic = deterministic

    @property
    def is_recurrent(self) -> bool:
        """Whether what it says depends on what it was shown before."""
        return bool(getattr(self._network, "is_recurrent", True))

    def act(self, observations: Observations) -> PolicyOutput:
        rows = select(observations, self.shapes)
        with torch.no_grad():
            sample, mean, sigma = self._forward(rows)
        mean = mean.detach()  # as sigma, which may be a view of a parameter
        return PolicyOutput(mean if self._deterministic else sample.detach(), mean, sigma.detach())

    def reset(self, dones: torch.Tensor) -> None:
        with torch.no_grad():
            self._network.reset(dones.bool())


def trained_shapes(runner: Any, groups: Iterable[str]) -> Shapes:
    """What the runner was built for, per group, read from its storage."""
    stored = runner.alg.storage.observations  # (steps, num_envs, ...), one tensor or a TensorDict
    one = isinstance(stored, torch.Tensor)
    return {name: tuple((stored if one else stored[name]).shape[2:]) for name in groups}


def select(observations: Observations, shapes: Shapes) -> dict[str, torch.Tensor]:
    """The groups that a policy reads.

    Raises:
        InputError: One is missing or of another shape than in training.
    """
    missing = [name for name in shapes if name not in observations.keys()]  # noqa: SIM118  TensorDict
    if missing:
        raise InputError(
            f"observations: expected the groups {listed(shapes)}, "
            f"got {listed(map(str, observations.keys()))}"
        )
    rows = {name: observations[name] for name in shapes}
    for name, value in rows.items():
        if tuple(value.shape[1:]) != shapes[name]:
            raise InputError(
                f"observations: expected {name!r} of shape (num_envs, "
                f"{', '.join(map(str, shapes[name]))}), got {tuple(value.shape)}"
            )
    return rows
