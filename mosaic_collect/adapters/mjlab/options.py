"""Options of collections in mjlab; importing them needs no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_collect.adapters.rsl_rl.options import RecordOptions

#: Terms that a robot cannot measure without an estimator, so a student does without them.
UNMEASURED = ("motion_anchor_pos_b", "base_lin_vel")


@dataclass(frozen=True, kw_only=True)
class MjlabCollectOptions(RecordOptions):
    """Options of a collection of an mjlab task; a ``student_history`` of 0 makes no student."""

    student_history: int = 5
    student_drop: Sequence[str] = UNMEASURED
