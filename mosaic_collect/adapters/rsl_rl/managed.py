"""A simulation of environments with managers, as Isaac Lab has them and mjlab after it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.vec_env import VecEnvSimulation
from mosaic_collect.collection.observation_terms import group_terms
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.robot import Robot

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
        manager = getattr(env, "command_manager", None)  # which not every environment has
        if manager is None or MOTION not in manager.active_terms:
            return None
        return disagreement(manager.get_term(MOTION), env.step_dt, active)

    def failed_by(self, failed: torch.Tensor) -> dict[str, int]:
        manager = getattr(self.env.unwrapped, "termination_manager", None)
        if manager is None:
            return {}
        counts = {n: int((manager.get_term(n) & failed).sum()) for n in manager.active_terms}
        return {name: count for name, count in counts.items() if count}

    @property
    def group_terms(self) -> dict[str, list[Term]]:
        """The terms of those flat groups that they fill, in the order of columns."""
        manager, dims = self.env.unwrapped.observation_manager, self.group_dims
        if not hasattr(manager, "active_terms"):
            return {}
        names = getattr(self.asset, "joint_names", ())
        found = {
            name: group_terms(manager, name, names, self.joint_unit)
            for name in dims
            if name in manager.active_terms
        }
        return {n: t for n, t in found.items() if sum(term.width for term in t) == dims[n]}

    @property
    def robot_name(self) -> str:
        """Name of the robot's model; empty if it is not known."""
        return ""

    @property
    def asset(self) -> Any:
        """The robot that follows motions, or else the one named "robot"; None: there is none."""
        env, name = self.env.unwrapped, "robot"
        manager = getattr(env, "command_manager", None)
        if manager is not None and MOTION in manager.active_terms:
            cfg = manager.get_term(MOTION).cfg
            name = getattr(cfg, "asset_name", getattr(cfg, "entity_name", name))
        scene = getattr(env, "scene", {})
        scene = getattr(scene, "entities", scene)
        return scene[name] if name in scene.keys() else None  # noqa: SIM118  no mapping

    @property
    def joint_unit(self) -> str:
        """Unit of the joints' positions; empty if it is not known or not one."""
        return ""

    @property
    def robot(self) -> Robot:
        """Description of the robot, as far as the environment has it; units are the terms'."""
        env, asset = self.env.unwrapped, self.asset
        joints = tuple(getattr(asset, "joint_names", ()))
        patterns = getattr(getattr(getattr(asset, "cfg", None), "init_state", None), "joint_pos", 0)
        # Not from the asset's data, which a task may randomize per environment.
        default = {j: _matching(patterns, j) for j in joints} if isinstance(patterns, dict) else {}
        return Robot(
            name=self.robot_name,
            joint_names=joints,
            body_names=tuple(getattr(asset, "body_names", ())),
            default_joint_pos=tuple(default.values()),
            control_dt=env.step_dt,
            sim_dt=env.physics_dt,
            **_actions(getattr(env, "action_manager", None), default),
        )


def _matching(patterns: Mapping[str, float], name: str) -> float:
    """Value of the first pattern that a name matches, as both simulators resolve it; else 0."""
    return next((float(v) for p, v in patterns.items() if re.fullmatch(p, name)), 0.0)


def _actions(manager: Any, default: Mapping[str, float]) -> dict[str, Any]:
    """Names, scales and offsets of the actions, if all action terms have them."""
    names: list[str] = []
    numbers: dict[str, list[float]] = {"_scale": [], "_offset": []}
    for key in getattr(manager, "active_terms", ()):
        term = manager.get_term(key)
        own = getattr(term, "_joint_names", getattr(term, "_target_names", None))
        own = list(own if own and len(own) == term.action_dim else range(term.action_dim))
        names += [n if isinstance(n, str) and n not in names else f"{key}_{n}" for n in own]
        for what, found in numbers.items():
            value = getattr(term, what, None)
            if isinstance(value, torch.Tensor):
                value = value.expand(term.num_envs, term.action_dim)[0].tolist()
            elif isinstance(value, (int, float)):
                value = [value] * term.action_dim
            if what == "_offset" and _is_default_pos(term) and all(n in default for n in own):
                value = [default[name] for name in own]
            found += value or []
    complete = {what: found for what, found in numbers.items() if len(found) == len(names)}
    return {"action_names": tuple(names), **{f"action{k}": tuple(v) for k, v in complete.items()}}


def _is_default_pos(term: Any) -> bool:
    """Whether a term's offset is the default position, which may be randomized per environment."""
    is_default = getattr(term.cfg, "use_default_offset", False)
    return is_default and "Position" in type(term.cfg).__name__


_NEAR_M = 0.05  # joint limits, at which joints are clipped, move bodies by that much
_NEAR_RAD = 0.3
_STEPS = 2.0  # a command may be a step ahead of the robot
_NEEDED = ("body_pos_w", "robot_body_pos_w", "body_lin_vel_w", "joint_pos", "robot_joint_pos")


def disagreement(command: Any, step_s: float, active: torch.Tensor) -> str | None:
    """How reference and robot differ, in words; None: they do not.

    Args:
        command: The motion command; one without bodies agrees.
        step_s: A step, in s.
        active: Environments that follow a motion, ``(N,)`` bool.
    """
    if not all(hasattr(command, name) for name in _NEEDED):
        return None
    reference = _tensor(command.body_pos_w)[active]
    robot = _tensor(command.robot_body_pos_w)[active]
    off = (reference - robot).norm(dim=-1)  # (n, bodies)
    allowed = _NEAR_M + _STEPS * step_s * _tensor(command.body_lin_vel_w)[active].norm(dim=-1)
    beyond = (off - allowed).nan_to_num(torch.inf)
    if bool((beyond <= 0).all()):
        return None
    env, body = divmod(int(beyond.argmax()), beyond.shape[1])
    count = int((beyond > 0).any(dim=1).sum())
    names = list(command.cfg.body_names)
    cause = _cause(command, active, reference, robot, names, env, body)
    return (
        f"in {count} of {len(off)} environments; body {names[body]!r} is "
        f"{float(off[env, body]):.2f} m from the robot's; likely {cause}"
    )


def _tensor(values: Any) -> torch.Tensor:
    """Isaac Lab 3's asset data are arrays of Warp's, which hold a tensor."""
    found: torch.Tensor = getattr(values, "torch", values)
    return found


def _cause(
    command: Any,
    active: torch.Tensor,
    reference: torch.Tensor,
    robot: torch.Tensor,
    names: list[str],
    env: int,
    body: int,
) -> str:
    off = _tensor(command.joint_pos) - _tensor(command.robot_joint_pos)
    joints = off[active].abs().nan_to_num(torch.inf)
    if float(joints.max()) > _NEAR_RAD:
        return (
            "the file's joints are in another order, of another robot, or in degrees: the robot's "
            "limits do not let it take them"
        )
    others = (robot[env] - reference[env, body]).norm(dim=-1).nan_to_num(torch.inf)
    nearest = int(others.argmin())
    if nearest != body and float(others[nearest]) <= _NEAR_M:
        return (
            f"the file's bodies are in another order: it has {names[body]!r} where the robot's "
            f"{names[nearest]!r} is"
        )
    return (
        "the file's joints or bodies are in another order or of another robot, or its quaternions "
        "xyzw for wxyz, or the other way round"
    )
