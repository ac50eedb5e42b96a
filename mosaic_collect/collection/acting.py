"""Who acts while the policy labels, and from where trajectories begin: what a collection is asked.

A policy that acts by its mean shows what it does while nothing goes wrong; a student of such a
recording has never seen a disturbance, and falls at its first one. So actions may be disturbed
while the recorded mean stays what the policy would do (DART: Laskey et al. 2017), or the student
may act and the policy label (DAgger: Ross et al. 2011). Pushes move the body where noise does not.

    executed, "actions"                        = who acts: mean, sample or student, and noise
    learned from, "action_mean", "action_sigma" = the policy's, whoever acts
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from mosaic_collect.checks import lfs_pointer, local_path
from mosaic_collect.errors import InputError
from mosaic_collect.text import reason

MEAN, SAMPLE = "mean", "sample"
#: Frame at which the trajectories of motions begin.
Start = Literal["first", "random"]
STARTS = get_args(Start)
FIRST, RANDOM = STARTS
_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Acting:
    """How a collection acts; by default as the policy would by itself.

    Attributes:
        action_noise: Largest standard deviation of the noise added to the actions, in their units.
            The noise of each trajectory is drawn uniformly from 0 to it.
        act_by: Who acts: mean or sample of the policy, or the file of a student that acts in a
            share of the steps.
        act_share: Share of the steps in which the student acts (default: 0.5 with a student).
        push: Largest standard deviation of velocity pushes, in m/s: added to each base along x and
            y in one of 25 steps on average. That of each trajectory is drawn uniformly from 0 to
            it.
        start: Frame of its motion at which a trajectory starts: the ``first`` one, or a ``random``
            one.
        seed: Seed of the noise, of the pushes, and of the choice of who acts.
        trust_checkpoint: Run code in the student's file: it is a TorchScript program.

    Raises:
        InputError: Naming all values that make no sense.
    """

    action_noise: float = 0.0
    act_by: str = MEAN
    act_share: float | None = None
    push: float = 0.0
    start: Start = "first"
    seed: int | None = 0
    trust_checkpoint: bool = False

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError("; ".join(problems))

    @property
    def student_path(self) -> str | None:
        """The student's path; None: the policy acts alone."""
        return None if self.act_by in (MEAN, SAMPLE) else self.act_by

    @cached_property
    def student_file(self) -> bytes:
        """Content of the student's file, read once: the program that acts is the one recorded."""
        path = local_path(self.act_by, "act_by")
        expected = f"act_by: expected mean, sample or a student's file, got {path!r}"
        if not os.path.isfile(path):
            raise InputError(expected)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise InputError(f"{expected}, which cannot be read: {reason(error, path)}") from error
        if words := lfs_pointer(content):
            raise InputError(f"{expected}, which is {words}")
        return content

    @property
    def student_share(self) -> float:
        """Share of the steps in which the student acts."""
        if self.student_path is None:
            return 0.0
        return _SHARE if self.act_share is None else self.act_share

    @property
    def acts_by_mean(self) -> bool:
        """Whether the policy's own actions are its mean."""
        return self.act_by != SAMPLE

    def acting_metadata(self) -> dict[str, Any]:
        """Return the options that differ from the default, as a store keeps them."""
        act_by: Any = self.act_by
        if self.student_path is not None:
            sha256 = hashlib.sha256(self.student_file).hexdigest()
            act_by = {"path": os.path.abspath(self.student_path), "sha256": sha256}
        told = {
            "action_noise": (self.action_noise, 0.0),
            "act_by": (act_by, MEAN),
            "act_share": (self.student_share, 0.0),
            "push": (self.push, 0.0),
            "start": (self.start, FIRST),
        }
        return {name: value for name, (value, usual) in told.items() if value != usual}

    def _problems(self) -> Iterator[str]:
        for name, value in (("action_noise", self.action_noise), ("push", self.push)):
            if not (math.isfinite(value) and value >= 0):
                yield f"{name}: expected a finite number from 0 on, got {value}"
        if self.act_share is not None and self.student_path is None:
            yield f"act_share: expected only where a student acts, got {self.act_share}"
        if self.act_share is not None and not 0 < self.act_share <= 1:
            yield f"act_share: expected a share above 0 and up to 1, got {self.act_share}"
        if self.start not in STARTS:
            yield f"start: expected {FIRST} or {RANDOM}, got {self.start!r}"


#: As the policy would by itself.
AS_TRAINED = Acting()
