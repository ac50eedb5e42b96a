"""Changes to an Isaac Lab task's config, made before its environment is.

Isaac Lab resets environments for reasons of its own within a step, so what a collector wants to
happen at a reset has to be among the task's terms:

- an event of mode ``reset`` gives each environment its next motion, before the command is reset;
- a termination term restarts those environments whose trajectory is over, and only those. Isaac
  Lab's ``env.reset(env_ids)`` would push a frame into every other environment's history, too.

Both ask ``env.mosaic_collect``, an ``motion.MosaicMotionTracker``; until there is one they do
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from mosaic_collect.collection.acting import FIRST
from mosaic_collect.collection.fitting import check_robot
from mosaic_collect.collection.groups import STUDENT
from mosaic_collect.collection.motions import Motion
from mosaic_collect.errors import InputError
from mosaic_collect.store.robot import Robot

TRACKER = "mosaic_collect"  # attribute of the environment, and what both terms are called
_NEVER_S = 1.0e6  # an episode's length in s that no trajectory reaches
_NO_RESAMPLING_S = 1.0e9


def prepare_env_cfg(env_cfg: Any, num_envs: int, terminations: bool = True) -> None:
    """Let the collector say when trajectories begin and end; no other randomisation.

    Changes a manager-based task's config in place. ``terminations`` keeps the task's own, so that
    falls end a trajectory.
    """
    from isaaclab.managers import EventTermCfg, TerminationTermCfg

    env_cfg.scene.num_envs = num_envs
    env_cfg.episode_length_s = _NEVER_S
    env_cfg.events = _without_terms(env_cfg.events)
    add_entry(env_cfg, "events", TRACKER, EventTermCfg(func=_assign_motions, mode="reset"))
    if not terminations:
        env_cfg.terminations = _without_terms(env_cfg.terminations)
    add_entry(env_cfg, "terminations", TRACKER, TerminationTermCfg(func=_restart, time_out=True))


def prepare_motion_cfg(
    motion_cfg: Any, motion: str, start: str = FIRST, motions: Sequence[Motion] = ()
) -> None:
    """Make MOSAIC's motion command load all motions of a folder, from a ``start`` frame.

    The ``MultiMotionCommandCfg`` is changed in place; one of another kind is an ``InputError``.
    Motions of another robot are one while the environment is made.
    """
    wanted = {
        "motion": motion,
        "debug_vis": False,
        "start_from_beginning": start == FIRST,
        "start_frame": 0,
        "resample_motions_every_s": _NO_RESAMPLING_S,
        # Isaac Lab's own timer would put a robot elsewhere in its motion, without a word.
        "resampling_time_range": (_NO_RESAMPLING_S, _NO_RESAMPLING_S),
        # A process would load a part only, and at most as many motions as environments.
        "motion_dataset_shard_across_gpus": False,
        "motion_dataset_load_cap": None,
    }
    if start != FIRST:
        wanted["adaptive_alpha"] = 0.0  # or it would learn to draw the frames before falls
    missing = [name for name in ("motion", "start_from_beginning") if not hasattr(motion_cfg, name)]
    if missing:
        raise InputError(
            f"commands.motion: expected MOSAIC's command with {', '.join(missing)}, "
            f"got {type(motion_cfg).__name__}"
        )
    for name, value in wanted.items():
        if hasattr(motion_cfg, name):
            setattr(motion_cfg, name, value)
    if motions:
        motion_cfg.class_type = _checking(motion_cfg.class_type, motions)


def _checking(command: type[Any], motions: Sequence[Motion]) -> type[Any]:
    """The command, which looks whether motions are of its robot before it loads them."""

    class Checking(command):  # type: ignore[misc]
        def __new__(cls, cfg: Any, env: Any) -> Any:  # a refused one has nothing to tear down
            robot = env.scene[cfg.asset_name]
            names = {"joint_names": robot.joint_names, "body_names": robot.body_names}
            check_robot(motions, Robot(**names))
            return super().__new__(cls)

    return Checking


def entry(terms: Any, name: str) -> Any:
    """A term or group of a config object or of a dict; None if there is none."""
    return terms.get(name) if isinstance(terms, dict) else getattr(terms, name, None)


def add_entry(env_cfg: Any, kind: str, name: str, term: Any) -> None:
    """A term or group, into a config object or a dict; None becomes a dict."""
    terms = getattr(env_cfg, kind)
    if terms is None:
        setattr(env_cfg, kind, {name: term})
    elif isinstance(terms, dict):
        terms[name] = term
    else:
        setattr(terms, name, term)


def _restart(env: Any) -> torch.Tensor:
    """Environments whose trajectories end with this step, ``(num_envs,)`` bool."""
    tracker = getattr(env, TRACKER, None)
    if tracker is None:
        return torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    restart: torch.Tensor = tracker.restart
    return restart


def _assign_motions(env: Any, env_ids: Any) -> None:
    """These environments are about to be reset."""
    tracker = getattr(env, TRACKER, None)
    if tracker is not None:
        tracker.assign(env_ids)


def _without_terms(terms: Any) -> Any:
    """The config with each term None, which managers leave out."""
    if terms is None or isinstance(terms, dict):
        return {}
    for name in [n for n in vars(terms) if not n.startswith("_")]:
        setattr(terms, name, None)
    return terms


POLICY = "policy"


def add_student_group(
    env_cfg: Any,
    policy_group: Any,
    noise: bool = True,
    history: int | None = None,
    drop: Sequence[str] = (),
) -> None:
    """Observe as a student, beside the policy; changes the config in place.

    The ``policy`` group of the student's task is copied: the manager changes terms in place.
    ``history`` None is the student's task's own, 0 is none. ``drop`` are terms that the student
    does without. A term that is not there, or a task with a group of the student's name, is an
    ``InputError``.
    """
    if entry(env_cfg.observations, STUDENT) is not None:
        raise InputError(
            f"observations: the task has a group {STUDENT!r} of its own; it is recorded as it is "
            "when no student is asked for"
        )
    group = copy.deepcopy(policy_group)
    terms = [name for name, term in vars(group).items() if hasattr(term, "func")]
    unknown = sorted(set(drop) - set(terms))
    if unknown:
        raise InputError(
            f"student_drop: expected some of {', '.join(terms)}, got {', '.join(unknown)}"
        )
    for name in drop:
        setattr(group, name, None)
    if not noise:
        group.enable_corruption = False
    if history is not None:
        group.history_length = history
        group.flatten_history_dim = True
    add_entry(env_cfg, "observations", STUDENT, group)


def policy_group(env_cfg: Any, task: str, option: str = "task") -> Any:
    """A task's ``policy`` group, not a copy; ``InputError`` if the task has none."""
    group = entry(getattr(env_cfg, "observations", None), POLICY)
    if group is None:
        raise InputError(f"{option}: {task} has no observations.{POLICY}")
    return group
