"""What an observation group of a manager-based environment is made of.

Read from what the manager of Isaac Lab or mjlab worked out when made: no term is called, because
terms draw noise and advance histories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mosaic_collect.errors import InputError


@dataclass(frozen=True)
class Term:
    """One term of a group.

    Attributes:
        name: Within its group.
        dim: Width of one frame.
        frames: Frames that the environment itself puts into the group; 1 without history.
    """

    name: str
    dim: int
    frames: int = 1

    @property
    def width(self) -> int:
        """Columns of the group that it takes."""
        return self.dim * self.frames


def group_terms(manager: Any, group: str) -> list[Term]:
    """The terms of a group, in the order of its columns.

    Isaac Lab 3 may lay a group's history out by time: all terms of the oldest frame, ..., all terms
    of the newest. Then each older frame is one term, ``frame_-4`` for one, before the newest's.

    Raises:
        InputError: No such group, or a term that is not a row of numbers.
    """
    if group not in manager.active_terms:
        have = ", ".join(manager.active_terms)
        raise InputError(f"environment: expected the observation group {group!r}, got {have}")
    names, shapes = manager.active_terms[group], manager.group_obs_term_dim[group]
    # The same name in all versions; there is no other.
    configs = manager._group_obs_term_cfgs[group]
    terms = [
        _term(name, tuple(shape), config)
        for name, shape, config in zip(names, shapes, configs, strict=True)
    ]
    by_time = getattr(manager, "_group_obs_time_major", {}).get(group, False)
    return _laid_by_time(terms) if by_time else terms


def newest_frames(terms: Sequence[Term], observation: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each term's newest frame, ``(num_envs, dim)``, within the concatenated group.

    Raises:
        InputError: The observation has another width than the terms.
    """
    widths = [term.width for term in terms]
    if observation.ndim != 2 or observation.shape[1] != sum(widths):
        raise InputError(
            f"observation: expected (num_envs, {sum(widths)}), got {tuple(observation.shape)}"
        )
    columns = observation.split(widths, dim=1)
    # Simulators lay a term's frames out from the oldest to the newest.
    return {t.name: part[:, -t.dim :] for t, part in zip(terms, columns, strict=True)}


def _laid_by_time(terms: Sequence[Term]) -> list[Term]:
    older = range(1 - max(term.frames for term in terms), 0)
    width = sum(term.dim for term in terms)
    frames = [Term(f"frame_{age}", width) for age in older]
    return frames + [Term(term.name, term.dim) for term in terms]


def _term(name: str, shape: tuple[int, ...], config: Any) -> Term:
    frames = max(1, int(getattr(config, "history_length", 0) or 0))
    if len(shape) > 1 + (frames > 1):
        raise InputError(f"term {name!r}: expected a row of numbers, got the shape {shape}")
    # Isaac Lab multiplies widths by NumPy, whose numbers JSON does not take.
    return Term(name, int(math.prod(shape)) // frames, frames)
