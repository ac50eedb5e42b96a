"""Collecting MOSAIC's motions in an Isaac Lab environment; what the script does after its flags.

Made for Isaac Lab 2.1 to 2.3 and its ``RslRlVecEnvWrapper``, of either rsl_rl generation. Nothing
here imports Isaac Lab: it is handed an environment whose config ``isaaclab_cfg`` went over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mosaic_collect.adapters.isaaclab_cfg import STUDENT
from mosaic_collect.adapters.isaaclab_motion import MotionAccount, loaded_motions
from mosaic_collect.adapters.rsl_rl.vec_env import VecEnvSimulation
from mosaic_collect.collection.protocols import Policy
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.motions import MotionQueue
from mosaic_collect.rollout import collect, collected_schema, teacher_rows
from mosaic_collect.schema import Field, Schema
from mosaic_collect.writer import TrajectoryWriter

MOTION_FIELDS = (
    Field(name="motion_id", dtype="int32"),
    Field(name="motion_frame", dtype="int32"),
)
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class MotionOptions:
    """Which motions are collected, and how much of each.

    Attributes:
        start_index: First motion, in the order of paths.
        end_index: Behind the last; None: all.
        steps_per_trajectory: End a trajectory after that many rows; None: at its motion's end.
        max_trajectories: Begin no more than that many, over all runs; None: each motion once.
        max_steps: Of the store in all; None: no end but the motions'.
        rank: Of this process among ``world``, which share the motions.
        world: Processes.
    """

    start_index: int = 0
    end_index: int | None = None
    steps_per_trajectory: int | None = None
    max_trajectories: int | None = None
    max_steps: int | None = None
    rank: int = 0
    world: int = 1

    def chosen(self, motions: Sequence[_T]) -> list[_T]:
        """Those of this process, of motions or their files in the order of paths.

        Raises:
            InputError: There is none, or a number makes no sense.
        """
        problems = [
            f"{name}: expected at least 1, got {value}"
            for name in ("steps_per_trajectory", "max_trajectories", "max_steps")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if self.start_index < 0:
            problems.append(f"start_index: expected 0 or more, got {self.start_index}")
        found = list(motions[max(self.start_index, 0) : self.end_index][self.rank :: self.world])
        if not found:
            problems.append(
                f"motions {self.start_index}..{self.end_index}: none for process {self.rank} of "
                f"{self.world} among {len(motions)}"
            )
        if problems:
            raise InputError("; ".join(problems))
        return found


def collect_motions(
    env: Any,
    policy: Policy,
    store: str | os.PathLike[str],
    options: MotionOptions,
    about: Mapping[str, Any],
    *,
    notes: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_step: Callable[[TrajectoryWriter], object] | None = None,
    **writer_options: Any,
) -> MotionQueue:
    """Record each motion once, from its first frame; commits and completes the store.

    Args:
        env: The rsl_rl wrapper.
        policy: Loaded for it.
        store: Where to.
        options: Which motions.
        about: Where the data come from, JSON; a resume must find the same in the store.
        notes: More of it, which may differ.
        resume: Go on with the store; motions that it calls done are left out.
        on_step: Called with the writer after each step.
        **writer_options: Of ``TrajectoryWriter``, such as ``buffer_mb``.

    Returns:
        The motions and what became of them.

    Raises:
        InputError: A bad option, or no motion is left to choose from.
        StoreMismatchError: On resume, ``about`` differs.
        StoreError, WriteError: Of the writer.
    """
    known = TrajectoryDataset(store) if resume else None
    told = known.metadata if known else {}
    _refuse_changes(about, told)
    unwrapped, simulation = env.unwrapped, VecEnvSimulation(env)
    queue = MotionQueue(options.chosen(loaded_motions(unwrapped)), 1, told)
    account = MotionAccount(
        unwrapped, queue, options.steps_per_trajectory, _left(options.max_trajectories, queue)
    )
    groups = tuple(policy.shapes) if hasattr(policy, "shapes") else ("policy",)
    dims = {n: int(d[0]) for n, d in unwrapped.observation_manager.group_obs_dim.items()}
    student = STUDENT if STUDENT in dims else None
    with TrajectoryWriter(
        store,
        collected_schema(_schema(dims, groups, student, simulation.num_actions), known),
        simulation.num_envs,
        device=simulation.device,
        metadata={
            **about,
            **(notes or {}),
            "groups": {name: dims[name] for name in groups},
            **queue.ledger(),
        },
        resume=resume,
        **writer_options,
    ) as writer:
        collect(
            simulation,
            policy,
            writer,
            teacher_rows(groups, student),
            account,
            options.max_steps or sys.maxsize,
            on_step=None if on_step is None else lambda: on_step(writer),
        )
    return queue


def _schema(
    dims: Mapping[str, int], groups: tuple[str, ...], student: str | None, num_actions: int
) -> Schema:
    return Schema.mosaic(
        obs_dim=sum(dims[group] for group in groups),
        action_dim=num_actions,
        student_obs_dim=dims[student] if student else None,
        extra=MOTION_FIELDS,
    )


def _left(max_trajectories: int | None, queue: MotionQueue) -> int | None:
    if max_trajectories is None:
        return None
    return max(max_trajectories - queue.completed - queue.fell, 0)


def _refuse_changes(about: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    changed = [
        f"{name}: expected {told[name]!r}, got {value!r}"
        for name, value in about.items()
        if name in told and told[name] != value
    ]
    if changed:
        raise StoreMismatchError(f"the store was collected otherwise: {'; '.join(changed)}")
