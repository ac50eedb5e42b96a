"""What a collection of an rsl_rl checkpoint is told, whatever the simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mosaic_collect.checks import pythons
from mosaic_collect.collection.acting import FIRST, MEAN, Acting
from mosaic_collect.errors import InputError
from mosaic_collect.recording.ring.devices import check_device

#: What a resume refuses to find changed, unless it is allowed by this name.
PROTECTED = ("task", "checkpoint", "motions", "observations", "acting")
DEFAULT_ENVS = 64


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is made.

    Attributes:
        task: Its registered name.
        num_envs: Environments, N; None: 64.
        device: Of simulation and policy; None: CUDA if there is one.
        seed: Of noise and randomisation; None: the task's own.
        teacher_noise: Whether the policy sees noise, as in training.
        student_history: Frames of the student's observation.
        student_noise: Whether the student's observation is noisy.
        student_drop: Terms of the policy's group that the student does without.
        allow_fps: Play motions of another rate than the task's steps frame by frame.
        resample: Make frames of them at the task's steps instead.
        start: Of trajectories of motions: their ``first`` frame, or a ``random`` one of each.
    """

    task: str
    num_envs: int | None = None
    device: str | None = None
    seed: int | None = 0
    teacher_noise: bool = True
    student_history: int | None = None
    student_noise: bool = True
    student_drop: Sequence[str] = ()
    allow_fps: bool = False
    resample: bool = False
    start: str = FIRST

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # random.seed, for one, takes no NumPy's
            object.__setattr__(self, field.name, pythons(getattr(self, field.name)))


@dataclass(frozen=True, kw_only=True)
class RecordOptions(TaskOptions):
    """One collection; on resume ``num_envs`` None means the store's, and noise is drawn anew.

    Attributes:
        checkpoint: An rsl_rl checkpoint of the task's policy.
        output: The store; of a ``distributed`` collection the folder of all ranks.
        max_steps: Steps of the store in all; None: as many as ``passes`` takes.
        motion: A motion file, or a folder of them at any depth; None for tasks without motions.
        passes: Trajectories of each motion; None: go round until ``max_steps``.
        action_noise, act_by, act_share, push: Of ``Acting``, as ``start`` is.
        resume: Go on with the store; "auto": if it is there.
        distributed: Be one of torchrun's ranks: a part of its own, motions that no other rank has,
            the device of its local rank, a seed of its own; mjlab's.
        take_over: Ranks that will not come back: what they had not finished is anybody's.
        allow_changed: Which of ``PROTECTED`` may differ on resume; None: nobody can allow any.
        record_states: The simulator's state beside each row, from which the robot can be seen
            again; mjlab's.
        stop_on_nonfinite: End the run with the first row that holds NaN or infinity.
        trust_checkpoint: Code in the checkpoint may run, and in the student's file of ``act_by``.
        buffer_mb, compressor, encode_in, commit_seconds: Of the writer.
    """

    checkpoint: str
    output: str
    max_steps: int | None = None
    motion: str | None = None
    passes: int | None = None
    action_noise: float = 0.0
    act_by: str = MEAN
    act_share: float | None = None
    push: float = 0.0
    resume: bool | str = False
    distributed: bool = False
    take_over: Sequence[int] = ()
    allow_changed: Sequence[str] | None = ()
    record_states: bool = False
    stop_on_nonfinite: bool = False
    trust_checkpoint: bool = False
    buffer_mb: float | str = "auto"
    compressor: str = "auto"
    encode_in: str = "auto"
    commit_seconds: float | None = 60.0

    @cached_property
    def acting(self) -> Acting:
        """Who acts, and how; always the same one, which reads a student's file once."""
        return Acting(
            action_noise=self.action_noise,
            act_by=self.act_by,
            act_share=self.act_share,
            push=self.push,
            start=self.start,
            seed=self.seed or 0,
            trust_student=self.trust_checkpoint,
        )

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: Naming the first value that makes none.
        """
        for name in ("max_steps", "passes", "num_envs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        if self.max_steps is None and (self.passes is None or self.motion is None):
            raise InputError("max_steps: expected a number, or motions and passes, got neither")
        if self.student_history is not None and self.student_history < 0:
            raise InputError(f"student_history: expected 0 or more, got {self.student_history}")
        if self.acting.start != FIRST and self.motion is None:
            raise InputError(f"start: expected only with motions, got {self.start!r}")
        if self.take_over and (self.motion is None or not self.distributed):
            told = [*self.take_over]
            raise InputError(f"take_over: expected only with distributed and motions, got {told}")
        unknown = set(self.allow_changed or ()) - set(PROTECTED)
        if unknown:
            names, got = ", ".join(PROTECTED), ", ".join(sorted(unknown))
            raise InputError(f"allow_changed: expected some of {names}, got {got}")
        if self.device is not None:
            check_device(self.device)
