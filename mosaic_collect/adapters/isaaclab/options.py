"""Options of collections in Isaac Lab; importing them needs no simulator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.errors import InputError

_T = TypeVar("_T")
#: Options that find the checkpoint of a training run.
TRAINING_RUN = ("experiment_name", "load_run", "load_checkpoint")


@dataclass(frozen=True, kw_only=True)
class IsaacLabCollectOptions(RecordOptions):
    """One collection of a registered task; a student is made if one of its options is given.

    Attributes:
        tasks_module: Module that registers more tasks, imported besides Isaac Lab's own (default:
            none).
        overrides: Overrides of the task's and the runner's config, such as env.sim.dt=0.005; with
            Isaac Lab 3 presets, too, such as physics=newton_mjwarp (default: none).
        launcher: Flags of Isaac Lab's own launcher in one text, such as ="--viz kit" (default:
            none).
        student_task: Task whose policy group the student observes (default: the teacher's task).
        student_overrides: Overrides of the config of the student's task (default: none).
        terminations: Keep the task's own, so that falls end a trajectory; only with motions.
        experiment_name: Folder of the experiment below logs/rsl_rl, whose newest checkpoint is
            used if ``checkpoint`` is empty (default: as the runner's config has it).
        load_run: Folder of a training run of the experiment, or a pattern (default: as the
            runner's config has it).
        load_checkpoint: Checkpoint of the training run, or a pattern (default: as the runner's
            config has it).
        start_index: First motion, in the order of paths.
        end_index: Index behind the last motion; None: all.
        steps_per_trajectory: End a trajectory after that many rows; None: at its motion's end.
        max_trajectories: Begin no more than that many, over all runs; None: each motion once.
        notes: Further entries of the store's metadata, by name.
    """

    _LEAST: ClassVar[Mapping[str, int]] = {
        **RecordOptions._LEAST,
        **dict.fromkeys(("steps_per_trajectory", "max_trajectories"), 1),
        "start_index": 0,
    }

    seed: int | None = None
    tasks_module: str | None = None
    overrides: Sequence[str] = ()
    launcher: str = ""
    student_task: str | None = None
    student_overrides: Sequence[str] = ()
    terminations: bool = True
    experiment_name: str | None = None
    load_run: str | None = None
    load_checkpoint: str | None = None
    start_index: int = 0
    end_index: int | None = None
    steps_per_trajectory: int | None = None
    max_trajectories: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        super().check()
        if self.student_overrides and self.student_task is None:
            raise InputError("student_overrides: expected only with a student_task")

    def find_checkpoint(self, runner_cfg: Any) -> str:
        """Find the newest checkpoint of the training run."""
        from isaaclab_tasks.utils import get_checkpoint_path

        experiment: str = self.experiment_name or runner_cfg.experiment_name
        logs = os.path.abspath(os.path.join("logs", "rsl_rl", experiment))
        run = self.load_run or runner_cfg.load_run
        file = self.load_checkpoint or runner_cfg.load_checkpoint
        try:
            return str(get_checkpoint_path(logs, run, file))
        except (OSError, ValueError) as error:
            raise InputError(
                f"checkpoint: none is named, and there is no {file} of a run {run} in {logs}: "
                f"{error}"
            ) from error

    def chosen(self, motions: Sequence[_T]) -> list[_T]:
        """Select motions, or their files, in the order of paths."""
        found = list(motions[self.start_index : self.end_index])
        if not found:
            raise InputError(
                f"motions {self.start_index}..{self.end_index}: none among {len(motions)}"
            )
        return found
