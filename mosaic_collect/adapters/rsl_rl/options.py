"""Options of a collection of an rsl_rl checkpoint, whatever the simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mosaic_collect.checks import check_device, pythons
from mosaic_collect.collection.acting import FIRST, Acting
from mosaic_collect.errors import InputError
from mosaic_collect.recording.budget import asked_nbytes
from mosaic_collect.recording.process import EncodeIn
from mosaic_collect.store.view import Resume

#: What a resume refuses to find changed, unless it is allowed by this name.
PROTECTED = ("task", "checkpoint", "motions", "observations", "acting", "robot")
DEFAULT_ENVS = 64


@dataclass(frozen=True, kw_only=True)
class RecordOptions(Acting):
    """One collection; on resume ``num_envs`` None means the store's, and noise is drawn anew.

    Attributes:
        task: Name of a registered task.
        num_envs: Number of parallel environments; None: 64, or what the store has.
        device: Device of simulation and policy, cpu or cuda:0; None: CUDA if there is one.
        seed: Seed of noise and randomization (default: 0 in mjlab, the task's own in Isaac Lab).
        teacher_noise: Add the task's observation noise to the policy's input, as in training.
        student_history: Number of frames in the student's observation. 0 records no student in
            mjlab (default: 5 in mjlab; in Isaac Lab what the student's task has, and no student if
            no option names one).
        student_noise: Add the task's observation noise to the student's observation.
        student_drop: Terms of the policy's observation that the student does not get (default in
            mjlab: motion_anchor_pos_b and base_lin_vel).
        allow_fps: Play motions of another rate than the task's frame by frame, at another speed.
        resample: Resample motions of another rate to the task's rate.
        checkpoint: rsl_rl checkpoint of the task's policy.
        output: Path or URL of the store; with ``distributed`` the folder of all ranks.
        max_steps: Number of vectorized steps in the finished store, earlier runs included; None: as
            many as ``passes`` takes.
        motion: Motion .npz file, or folder of them at any depth (default: none, for tasks without
            motions).
        passes: Number of trajectories to record per motion; None: repeat all motions until
            ``max_steps``.
        resume: Continue the store; with ``output`` alone the other options are those that it was
            collected with.
        overwrite: Replace a store that is there; its steps are deleted.
        distributed: Record as one of torchrun's ranks, each with a store in the folder ``output``.
            Ranks share the motions out and use the device of their local rank.
        take_over: Ranks that will not come back; the other ranks record what they had not finished.
        allow_changed: Differences to allow on resume: task, checkpoint, motions, observations,
            acting, robot (default: none).
        record: More fields to record: reward, reward_terms, terminated, truncated, commands,
            final_observations (Isaac Lab 3), or an observation group by its name, such as critic.
        record_states: Record the simulator's state with each row, which "replay" renders; mjlab
            and Isaac Lab 3 only.
        stop_on_nonfinite: End the run at the first row that holds NaN or infinity.
        trust_checkpoint: Run code in the checkpoint and in the student's file of ``act_by``;
            otherwise such files are refused.
        buffer_mb: Memory for steps that are not on disk yet, in MB of 10^6 bytes (default: about 64
            steps per block, at most a tenth of the free memory).
        compressor: Compression of the chunks (default: zstd, or what the store has).
        encode_in: Place of compression: threads, or a process of its own (default: by how much is
            recorded).
        commit_seconds: Seconds between commits; a kill loses at most the steps since the last one.
    """

    #: Smallest values of options that are numbers.
    _LEAST: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys(("max_steps", "passes", "num_envs"), 1),
        "student_history": 0,
    }

    task: str
    checkpoint: str
    output: str
    num_envs: int | None = None
    device: str | None = None
    teacher_noise: bool = True
    student_history: int | None = None
    student_noise: bool = True
    student_drop: Sequence[str] = ()
    allow_fps: bool = False
    resample: bool = False
    max_steps: int | None = None
    motion: str | None = None
    passes: int | None = None
    resume: Resume = False
    overwrite: bool = False
    distributed: bool = False
    take_over: Sequence[int] = ()
    allow_changed: Sequence[str] | None = ()
    record: Sequence[str] = ()
    record_states: bool = False
    stop_on_nonfinite: bool = False
    buffer_mb: float | Literal["auto"] = "auto"
    compressor: str = "auto"
    encode_in: EncodeIn = "auto"
    commit_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # random.seed, for one, takes no NumPy's
            object.__setattr__(self, field.name, pythons(getattr(self, field.name)))
        super().__post_init__()

    @property
    def extra_names(self) -> list[str]:
        """Names of the fields in ``record``, which may be joined by commas, and of states."""
        names = [name for text in self.record for name in text.split(",") if name]
        return [*names, *(["states"] if self.record_states else [])]

    @property
    def writer_options(self) -> dict[str, Any]:
        """Options that ``TrajectoryWriter`` takes by the same names."""
        names = ("buffer_mb", "compressor", "encode_in", "commit_seconds", "overwrite")
        return {name: getattr(self, name) for name in names}

    def _problems(self) -> Iterator[str]:
        for name, least in self._LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                expected = f"at least {least}" if least else "0 or more"
                yield f"{name}: expected {expected}, got {value}"
        yield from super()._problems()

    def check(self) -> None:
        """Raise ``InputError`` for what would be refused only after the simulator has started."""
        if self.max_steps is None and (self.passes is None or self.motion is None):
            raise InputError("max_steps: expected a number, or motions and passes, got neither")
        if self.start != FIRST and self.motion is None:
            raise InputError(f"start: expected only with motions, got {self.start!r}")
        if self.take_over and (self.motion is None or not self.distributed):
            told = [*self.take_over]
            raise InputError(f"take_over: expected only with distributed and motions, got {told}")
        unknown = set(self.allow_changed or ()) - set(PROTECTED)
        if unknown:
            names, got = ", ".join(PROTECTED), ", ".join(sorted(unknown))
            raise InputError(f"allow_changed: expected some of {names}, got {got}")
        asked_nbytes(self.buffer_mb)
        if self.device is not None:
            check_device(self.device)
        if self.student_path is not None:
            from mosaic_collect.collection.student import read_student

            read_student(self)
