"""Environments behind an rsl_rl ``VecEnv`` of any generation as a ``Simulation``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
from mosaic_collect.adapters.rsl_rl.load import POLICY, Actor, load_policy
from mosaic_collect.collection.observation_terms import group_terms
from mosaic_collect.collection.protocols import (
    EpisodeTracker,
    FieldReader,
    Observations,
    Simulation,
    StepResult,
)
from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import Field

MOTION = "motion"  # name of the command that follows motions
_NEAR_M = 0.05  # joint limits, at which joints are clipped, move bodies by that much
_NEAR_RAD = 0.3
_STEPS = 2.0  # a command may be a step ahead of the robot
_NEEDED = ("body_pos_w", "robot_body_pos_w", "body_lin_vel_w", "joint_pos", "robot_joint_pos")


class ManagedSimulation(Simulation):
    """The environment behind a wrapper such as Isaac Lab's ``RslRlVecEnvWrapper``.

    Observations are those that ``reset`` and ``step`` return; ``get_observations`` is called only
    for an environment that has no ``reset``, and then once. Groups and terms are those of managers.
    ``runner_cfg`` is the task's training config. Without a ``tracker`` the task has no motions.
    """

    #: The simulator's own subclass of rsl_rl's runner.
    runner_class: type[Any] | None = None

    def __init__(
        self, env: Any, runner_cfg: Any = None, tracker: EpisodeTracker | None = None
    ) -> None:
        self.env, self.runner_cfg = env, runner_cfg
        self.num_envs, self.num_actions = int(env.num_envs), int(env.num_actions)
        self.device = torch.device(env.device)
        self.tracker = tracker or EpisodeTracker(self.num_envs, self.device)
        self._is_closed = False

    def policy(
        self, checkpoint: str | Checkpoint, by_mean: bool = True, trust_checkpoint: bool = False
    ) -> Actor:
        """The checkpoint's actor; see ``load_policy``."""
        return load_policy(
            *(self.env, self.runner_cfg, checkpoint, self.device, self.runner_class, by_mean),
            trust_checkpoint=trust_checkpoint,
        )

    def reset(self) -> Observations:
        reset = getattr(self.env, "reset", None) or self.env.get_observations
        returned = reset()
        first, extras = returned if isinstance(returned, tuple) else (returned, {})
        return observation_groups(first, extras)

    def step(self, actions: torch.Tensor) -> StepResult:
        first, rewards, dones, extras = self.env.step(actions.to(self.device))
        return StepResult(
            observations=observation_groups(first, extras),
            dones=dones.bool(),
            time_outs=self._time_outs(extras),
            rewards=rewards,
            final=extras.get("final_obs"),
        )

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.env.close()

    def _time_outs(self, extras: Mapping[str, Any]) -> torch.Tensor:
        """Wrappers leave them out for tasks of finite horizon; the environment still knows."""
        found = extras.get("time_outs")
        if found is None:
            found = getattr(getattr(self.env, "unwrapped", None), "reset_time_outs", None)
        if found is None:
            raise InputError(
                'env: expected extras["time_outs"] or env.unwrapped.reset_time_outs, got neither: '
                "a fall could not be told from an end by time"
            )
        return torch.as_tensor(found).bool().clone()  # Isaac Lab's next step overwrites its own

    @property
    def group_dims(self) -> dict[str, int]:
        """Width of each observation group whose rows are flat."""
        # Of a group whose terms are not side by side, a list of their shapes.
        dims = self.env.unwrapped.observation_manager.group_obs_dim
        flat = {n: s for n, s in dims.items() if isinstance(s, tuple) and len(s) == 1}
        return {name: int(shape[0]) for name, shape in flat.items()}

    def state(self) -> Mapping[str, torch.Tensor]:
        """State of the simulator by field; empty if it cannot be recorded."""
        return {}

    @property
    def has_final(self) -> bool:
        return bool(getattr(self.env.unwrapped.cfg, "compute_final_obs", False))

    def extras(self) -> dict[str, FieldReader]:
        env, found = self.env.unwrapped, {}
        rewards: Any = getattr(env, "reward_manager", None)
        if names := list(getattr(rewards, "active_terms", ())):
            # Managers keep rewards per second, unless a task does not scale them.
            scale = env.step_dt if getattr(rewards, "_scale_by_dt", True) else 1.0
            found["reward_terms"] = FieldReader(
                (Field("reward_terms", dim=len(names)),),
                after=lambda result: {"reward_terms": rewards._step_reward * scale},
                terms={"reward_terms": [Term(name, 1) for name in names]},
            )
        manager: Any = getattr(env, "command_manager", None)
        names = list(getattr(manager, "active_terms", ()))
        widths = {name: manager.get_command(name).shape[1] for name in names}
        if widths:
            found["commands"] = FieldReader(
                (Field("commands", dim=sum(widths.values())),),
                before=lambda observations: {
                    "commands": torch.cat([manager.get_command(name) for name in widths], dim=1)
                },
                terms={"commands": [Term(name, width) for name, width in widths.items()]},
            )
        if state := self.state():
            fields = tuple(Field(name, dim=values.shape[1]) for name, values in state.items())
            found["states"] = FieldReader(fields, before=lambda observations: self.state())
        return found

    def disagreement(self, active: torch.Tensor) -> str | None:
        command = self.motion_command
        if command is None:
            return None
        return disagreement(command, self.env.unwrapped.step_dt, active)

    def failed_by(self, failed: torch.Tensor) -> dict[str, int]:
        manager: Any = getattr(self.env.unwrapped, "termination_manager", None)
        names = getattr(manager, "active_terms", ())
        counts = {name: int((manager.get_term(name) & failed).sum()) for name in names}
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
    def motion_command(self) -> Any:
        """The command that follows motions; None: there is none."""
        manager: Any = getattr(self.env.unwrapped, "command_manager", None)
        is_there = MOTION in getattr(manager, "active_terms", ())
        return manager.get_term(MOTION) if is_there else None

    @property
    def asset(self) -> Any:
        """The robot that follows motions, or else the one named "robot"; None: there is none."""
        cfg = getattr(self.motion_command, "cfg", None)
        name = getattr(cfg, "asset_name", getattr(cfg, "entity_name", "robot"))
        scene = getattr(self.env.unwrapped, "scene", {})
        scene = getattr(scene, "entities", scene)
        return scene[name] if name in scene.keys() else None  # noqa: SIM118  no mapping

    @property
    def free_asset(self) -> Any:
        """The robot; ``InputError`` if there is none, or it is fixed to its world."""
        if self.asset is None or getattr(self.asset, "is_fixed_base", True):
            raise InputError("push: expected a robot with a free base, this task has none")
        return self.asset

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
        matching = patterns.items() if isinstance(patterns, dict) else ()
        default = {  # by the first pattern that matches, as both simulators resolve it; else 0
            joint: next((float(v) for p, v in matching if re.fullmatch(p, joint)), 0.0)
            for joint in (joints if isinstance(patterns, dict) else ())
        }
        return Robot(
            name=self.robot_name,
            joint_names=joints,
            body_names=tuple(getattr(asset, "body_names", ())),
            default_joint_pos=tuple(default.values()),
            control_dt=getattr(env, "step_dt", None),
            sim_dt=getattr(env, "physics_dt", None),
            **_actions(getattr(env, "action_manager", None), default),
        )


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
            # The default position, which may be randomized per environment.
            is_default = getattr(getattr(term, "cfg", None), "use_default_offset", False)
            if what == "_offset" and is_default and "Position" in type(term.cfg).__name__:
                value = [default[n] for n in own] if all(n in default for n in own) else value
            found += value or []
    complete = {what: found for what, found in numbers.items() if len(found) == len(names)}
    return {"action_names": tuple(names), **{f"action{k}": tuple(v) for k, v in complete.items()}}


def observation_groups(first: Any, extras: Mapping[str, Any]) -> Observations:
    """The groups that an rsl_rl environment returned.

    ``first`` is the actor's tensor (2.x, which has all groups in ``extras``) or all groups.
    """
    if isinstance(first, torch.Tensor):
        return {POLICY: first, **extras.get("observations", {})}
    if not hasattr(first, "keys"):
        raise InputError(f"observations: expected a tensor or groups, got {type(first).__name__}")
    groups: Observations = first
    return groups


def disagreement(command: Any, step_s: float, active: torch.Tensor) -> str | None:
    """Describe how a motion command's reference and its robot differ; None: they do not.

    ``step_s`` is a step, in s; ``active`` are the environments that follow a motion, ``(N,)`` bool.
    A command without bodies agrees.
    """
    if not all(hasattr(command, name) for name in _NEEDED):
        return None
    values = {name: getattr(command, name) for name in _NEEDED}
    # Isaac Lab 3's asset data are arrays of Warp's, which hold a tensor.
    values = {name: getattr(value, "torch", value)[active] for name, value in values.items()}
    reference, robot = values["body_pos_w"], values["robot_body_pos_w"]  # (n, bodies, 3)
    off = (reference - robot).norm(dim=-1)
    allowed = _NEAR_M + _STEPS * step_s * values["body_lin_vel_w"].norm(dim=-1)
    beyond = (off - allowed).nan_to_num(torch.inf)
    if bool((beyond <= 0).all()):
        return None
    env, body = divmod(int(beyond.argmax()), beyond.shape[1])
    names = list(command.cfg.body_names)
    joints = (values["joint_pos"] - values["robot_joint_pos"]).abs().nan_to_num(torch.inf)
    others = (robot[env] - reference[env, body]).norm(dim=-1).nan_to_num(torch.inf)
    nearest = int(others.argmin())
    if float(joints.max()) > _NEAR_RAD:
        cause = (
            "the file's joints are in another order, of another robot, or in degrees: the robot's "
            "limits do not let it take them"
        )
    elif nearest != body and float(others[nearest]) <= _NEAR_M:
        cause = (
            f"the file's bodies are in another order: it has {names[body]!r} where the robot's "
            f"{names[nearest]!r} is"
        )
    else:
        cause = (
            "the file's joints or bodies are in another order or of another robot, or its "
            "quaternions xyzw for wxyz, or the other way round"
        )
    return (
        f"in {int((beyond > 0).any(dim=1).sum())} of {len(off)} environments; body "
        f"{names[body]!r} is {float(off[env, body]):.2f} m from the robot's; likely {cause}"
    )
