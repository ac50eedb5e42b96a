"""The terms of an observation group of a manager-based environment.

Read from what the manager of Isaac Lab or mjlab worked out when made: no term is called, because
terms draw noise and advance histories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term

#: Units of observation functions that Isaac Lab and mjlab share, if a task does not scale them.
_UNITS = {
    **dict.fromkeys(("base_lin_vel", "root_lin_vel_w", "imu_lin_vel"), "m/s"),
    **dict.fromkeys(("base_ang_vel", "root_ang_vel_w", "imu_ang_vel"), "rad/s"),
    **dict.fromkeys(("base_pos_z", "root_pos_w"), "m"),
}
_OF_JOINTS = {"joint_pos": "", "joint_pos_rel": "", "joint_vel": "/s", "joint_vel_rel": "/s"}


def group_terms(
    manager: Any, group: str, joint_names: Sequence[str] = (), joint_unit: str = ""
) -> list[Term]:
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
    found: list[Term] = []
    for name, shape, config in zip(names, shapes, configs, strict=True):
        frames = max(1, int(getattr(config, "history_length", 0) or 0))
        if len(shape) > 1 + (frames > 1):
            raise InputError(f"term {name!r}: expected a row of numbers, got the shape {shape}")
        # Isaac Lab multiplies widths by NumPy, whose numbers JSON does not take.
        dim = int(math.prod(shape)) // frames
        columns = _joints(manager, config, dim, joint_names)
        unit = _unit(config, joint_unit)
        found.append(Term(name, dim, frames, column_names=columns, unit=unit))
    if getattr(manager, "_group_obs_time_major", {}).get(group, False):
        older = range(1 - max(term.frames for term in found), 0)
        width = sum(term.dim for term in found)
        newest = [replace(term, frames=1) for term in found]
        found = [*(Term(f"frame_{age}", width) for age in older), *newest]
    terms: list[Term] = []
    for term in found:
        terms.append(replace(term, start=terms[-1].stop if terms else 0))
    return terms


def _unit(config: Any, joint_unit: str) -> str:
    """Unit of a term's values; empty if it is not known or a task scales them."""
    name = getattr(config.func, "__name__", "")
    if name == "builtin_sensor":
        name = str(config.params.get("sensor_name")).rpartition("/")[2]
    if getattr(config, "scale", None) is not None:
        return ""
    if name in _OF_JOINTS:
        return joint_unit and joint_unit + _OF_JOINTS[name]
    return _UNITS.get(name, "")


def _joints(manager: Any, config: Any, dim: int, usual: Sequence[str]) -> tuple[str, ...]:
    """Joints that a term selects, in its order; empty if they are the usual ones."""
    asset = (getattr(config, "params", None) or {}).get("asset_cfg")
    if asset is None or getattr(config.func, "__name__", "") not in _OF_JOINTS:
        return ()
    names, ids = manager._env.scene[asset.name].joint_names, asset.joint_ids
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    found = tuple(names[ids] if isinstance(ids, slice) else [names[i] for i in ids])
    return found if len(found) == dim and found != tuple(usual) else ()
