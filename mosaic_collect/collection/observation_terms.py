"""The terms of an observation group of a manager-based environment.

Read from what the manager of Isaac Lab or mjlab worked out when made: no term is called, because
terms draw noise and advance histories.
"""

from __future__ import annotations

import math
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term


def group_terms(manager: Any, group: str) -> list[Term]:
    """List the terms of a group, in the order of its columns.

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
    found: list[tuple[str, int, int]] = []
    for name, shape, config in zip(names, shapes, configs, strict=True):
        frames = max(1, int(getattr(config, "history_length", 0) or 0))
        if len(shape) > 1 + (frames > 1):
            raise InputError(f"term {name!r}: expected a row of numbers, got the shape {shape}")
        # Isaac Lab multiplies widths by NumPy, whose numbers JSON does not take.
        found.append((name, int(math.prod(shape)) // frames, frames))
    if getattr(manager, "_group_obs_time_major", {}).get(group, False):
        older = range(1 - max(frames for _, _, frames in found), 0)
        width = sum(dim for _, dim, _ in found)
        found = [(f"frame_{age}", width, 1) for age in older] + [(n, d, 1) for n, d, _ in found]
    terms: list[Term] = []
    for term in found:
        terms.append(Term(*term, start=terms[-1].stop if terms else 0))
    return terms
