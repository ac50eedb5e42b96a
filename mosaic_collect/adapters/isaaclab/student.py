"""What a student observes beside the policy: a group of its own, whose history Isaac Lab keeps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mosaic_collect.adapters.isaaclab.cfg import add_entry, entry
from mosaic_collect.collection.rollout import STUDENT
from mosaic_collect.errors import InputError

POLICY = "policy"


def add_student_group(
    env_cfg: Any,
    policy_group: Any,
    noise: bool = True,
    history: int | None = None,
    drop: Sequence[str] = (),
) -> None:
    """Observe as a student, beside the policy; the environment keeps its history.

    Args:
        env_cfg: Changed in place.
        policy_group: The ``policy`` group of the student's task; copied, for groups must not share
            terms, which the manager changes.
        noise: Whether the student's observations are noisy.
        history: Frames; None: as the student's task has it; 0: none.
        drop: Terms of the group that the student does without.

    Raises:
        InputError: ``policy_group`` is None, ``history`` negative, a term is not there, or the task
            has a group of the student's name already.
    """
    if policy_group is None:
        raise InputError("student_task: expected one with observations.policy, got none")
    if history is not None and history < 0:
        raise InputError(f"student_history: expected 0 or more, got {history}")
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
    """A task's ``policy`` group, not a copy.

    Raises:
        InputError: It has none, as tasks without managers have not.
    """
    group = entry(getattr(env_cfg, "observations", None), POLICY)
    if group is None:
        raise InputError(f"{option}: {task} has no observations.{POLICY}")
    return group
