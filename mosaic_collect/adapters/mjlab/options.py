"""Options of collections in mjlab; importing them needs no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_collect.adapters.rsl_rl.options import RecordOptions, TaskOptions

#: Terms that a robot cannot measure without an estimator, so a student does without them.
UNMEASURED = ("motion_anchor_pos_b", "base_lin_vel")


@dataclass(frozen=True, kw_only=True)
class MjlabOptions(TaskOptions):
    """How an mjlab task is made; a ``student_history`` of 0 makes no student.

    Attributes:
        student_drop: Terms of the policy's group that the student does without, where it has them;
            as they are, those of ``UNMEASURED``.
    """

    student_history: int = 5
    student_drop: Sequence[str] = UNMEASURED

    def dropped(self) -> dict[str, list[str]]:
        """What a store tells of the terms that were dropped; nothing of the usual ones."""
        usual = tuple(self.student_drop) == UNMEASURED
        return {} if usual else {"student_drop": list(self.student_drop)}


@dataclass(frozen=True, kw_only=True)
class MjlabCollectOptions(MjlabOptions, RecordOptions):
    """Options of a collection of an mjlab task."""
