"""Flags of ``scripts/collect_expert_trajectories.py``, and the collection that they mean.

The names are those of MOSAIC's script. Isaac Lab adds its own (``--headless``, ``--device``, ...).
All of it is checked before a simulator takes minutes to start.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mosaic_collect.adapters.isaaclab.launch import installed
from mosaic_collect.adapters.isaaclab.options import (
    IsaacLabCollectOptions,
    MotionOptions,
    TrainingRun,
)
from mosaic_collect.checks import local_path
from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.ranks import Rank, RankStore
from mosaic_collect.collection.student import read_student
from mosaic_collect.errors import InputError, MissingDependencyError, StoreExistsError
from mosaic_collect.export.options import AUTO
from mosaic_collect.npyfile.layout import COMPACT, GRID
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.view import AUTO as AUTO_RESUME


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add all flags but Isaac Lab's, and those of who acts, which are the options of ``collect``.

    Returns:
        The required ones, for ``optional``.
    """
    add = parser.add_argument
    required = [
        add("--task", required=True, help="name of the teacher's task"),
        add("--motion", type=_path, required=True, help="a motion file (.npz) or a folder of them"),
        add(
            "--output_path",
            type=_place,
            required=True,
            help="*.zarr: a store; *.npy: a store and its export",
        ),
    ]
    add("--checkpoint_path", type=_path, help="the teacher's checkpoint (.pt)")
    add(
        "--trust_checkpoint",
        action="store_true",
        help="let code run that the checkpoint or a student's file holds; else they are refused",
    )
    add("--num_envs", type=int, default=16, help="environments; at most one per motion")
    add("--steps_per_env", type=int, default=100, help="most rows of a trajectory")
    add("--max_trajectories", type=int, help="trajectories in all; default: one per motion")
    add("--max_steps", type=int, help="vectorised steps of the store in all")
    add("--start_index", type=int, default=0, help="first motion, in the order of paths")
    add("--end_index", type=int, help="behind the last motion")
    add("--enable_terminations", action="store_true", default=True, help="the default")
    add(
        "--disable_terminations",
        action="store_true",
        help="leave out the task's terminations: falls go on until the trajectory's end",
    )
    add("--student_task", help="task whose policy group the student observes")
    add(
        "--student_obs_history",
        type=int,
        help="the student's frames; 0: none; default: as its task has it. Without --student_task: "
        "of the teacher's own policy group",
    )
    add("--student_drop", nargs="+", default=[], help="terms that the student does without")
    add(
        "--student_overrides",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the student's task: presets of Isaac Lab 3, or Hydra's overrides",
    )
    add("--disable_student_noise", action="store_true", help="observe the student without noise")
    add("--store", type=_place, help="the store; default: --output_path, ending in .zarr")
    add("--resume", nargs="?", const=True, default=False, type=_resume, help="go on with the store")
    add("--layout", choices=(AUTO, GRID, COMPACT), default=AUTO, help="of the .npy")
    add(
        "--exclude_falls",
        action="store_true",
        help="leave trajectories that ended by a fall out of the .npy; the store keeps them",
    )
    add("--buffer_mb", default=AUTO, type=_megabytes, help="of the writer: megabytes, or auto")
    add("--resample", action="store_true", help="motions of other rates, to the task's steps")
    add("--allow_fps", action="store_true", help="play those frame by frame, at another speed")
    add("--stop_on_nonfinite", action="store_true", help="end with the first NaN or infinity")
    add("--seed", type=int, help="of the environments")
    add("--tasks_module", default="whole_body_tracking.tasks", help="imported for its tasks")
    group = parser.add_argument_group("rsl_rl")
    group.add_argument("--experiment_name", help="folder of logs/rsl_rl to find a checkpoint in")
    group.add_argument("--load_run", help="run folder to find a checkpoint in")
    group.add_argument("--checkpoint", help="checkpoint file within the run")
    group.add_argument("--wandb_path", help="run, or run and file, to download a checkpoint from")
    group.add_argument(
        "--resume_student_checkpoint",
        type=_path,
        help="as --checkpoint_path, which MOSAIC's script has, too",
    )
    group.add_argument(
        "--distributed", action="store_true", help="torchrun's processes share the motions"
    )
    return required


@contextlib.contextmanager
def optional(required: Sequence[argparse.Action]) -> Iterator[None]:
    """Let flags be left out within.

    Isaac Lab's launcher parses the command line while it adds its flags, at a time when
    ``--help`` is none: without this, help could only be had with all required flags given.
    """
    for action in required:
        action.required = False
    try:
        yield
    finally:
        for action in required:
            action.required = True


def parse(
    parser: argparse.ArgumentParser, required: Sequence[argparse.Action]
) -> tuple[argparse.Namespace, list[str]]:
    """The command line, with the flags of the Isaac Lab that is installed; what is left is Hydra's.

    Args:
        parser: With our flags.
        required: Required flags, as ``add_arguments`` returned them.

    Raises:
        SystemExit: Help was asked for, a flag is unknown, or Isaac Lab is not there: after telling.
    """
    missing = None
    try:
        with optional(required):
            installed().add_flags(parser)
    except MissingDependencyError as error:
        missing = str(error)
    args, left = parser.parse_known_args()
    if missing is not None:
        parser.error(missing)
    unknown = [text for text in left if text.startswith("-")]
    if unknown:
        parser.error(f"neither this script nor this Isaac Lab has {' '.join(unknown)}")
    return args, left


def _resume(text: str) -> bool | str:
    """rsl_rl's ``--resume True`` is known from training; "auto" is the writer's own."""
    if text.lower() not in ("true", "false", "1", "0", AUTO_RESUME):
        raise argparse.ArgumentTypeError(f"expected True, False or {AUTO_RESUME}, got {text}")
    return AUTO_RESUME if text.lower() == AUTO_RESUME else text.lower() in ("true", "1")


def _path(text: str) -> str:
    try:
        return local_path(text, "path")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _place(text: str) -> str:
    """Of a store, which may lie in object storage."""
    return text if is_url(text) else _path(text)


def _megabytes(text: str) -> str | float:
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected megabytes or {AUTO}, got {text}") from None


#: The lowest values that make sense; every process must have a trajectory to collect, too.
_LEAST = {
    "num_envs": 1,
    "steps_per_env": 1,
    "max_steps": 1,
    "start_index": 0,
    "student_obs_history": 0,
}


@dataclass(frozen=True)
class Plan:
    """What one process is going to do.

    Attributes:
        store: Path or URL of the store; of a ``distributed`` collection the folder of all ranks.
        own_store: The store of this process, in that folder.
        npy: Export of ``own_store``; None: none is wanted.
        num_envs: Number of environments: as given, but at most one per motion; on resume the
            store's.
        found: All motions, twins once.
        motions: Motions to collect, and how much of each.
    """

    store: str
    own_store: str
    npy: str | None
    num_envs: int
    found: list[Motion]
    motions: MotionOptions

    def options(self, args: argparse.Namespace, overrides: Sequence[str]) -> IsaacLabCollectOptions:
        """What the engine is told.

        Args:
            args: Arguments that ``of`` was called with, Isaac Lab's own flags among them.
            overrides: Rest of the command line: overrides for Hydra.
        """
        # Isaac Lab's --device has a default, which is no wish.
        asked = args.device if getattr(args, "device_explicit", False) else None
        return IsaacLabCollectOptions(
            task=args.task,
            checkpoint=named_checkpoint(args),
            training_run=TrainingRun(args.experiment_name, args.load_run, args.checkpoint),
            output=self.store,
            max_steps=args.max_steps,
            motion=args.motion,
            passes=1,
            num_envs=self.num_envs,
            device=asked,
            seed=args.seed,
            student_task=args.student_task,
            student_history=args.student_obs_history,
            student_noise=not args.disable_student_noise,
            student_drop=args.student_drop,
            student_overrides=args.student_overrides,
            allow_fps=args.allow_fps,
            resample=args.resample,
            **_acting(args),
            resume=args.resume,
            distributed=args.distributed,
            allow_changed=None,
            stop_on_nonfinite=args.stop_on_nonfinite,
            trust_checkpoint=args.trust_checkpoint,
            buffer_mb=args.buffer_mb,
            tasks_module=args.tasks_module,
            overrides=overrides,
            terminations=not args.disable_terminations,
            choice=self.motions,
            notes={"flags": vars(args)},
        )

    @classmethod
    def of(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
        """Check the flags, before a simulator takes minutes to start.

        Args:
            args: Parsed.
            environ: With torchrun's variables, if ``--distributed``.

        Raises:
            InputError: A flag that makes no sense, with all others that make none; motion files
                that cannot be played, all of them; or falls are to be left out of a store that
                does not know them.
            StoreError: ``--resume``, and the store cannot be read; or it is there without.
        """
        rank, world = 0, 1
        if args.distributed:
            number = Rank.of(environ)
            rank, world = number.number, number.world_size
        problems = _problems(args, world)
        if problems:
            raise InputError("; ".join(problems))
        wants_npy = args.output_path.endswith(".npy")
        store = args.store or os.path.splitext(args.output_path)[0] + ".zarr"
        seat = RankStore.of(store, args.distributed, environ)
        if not args.resume and seat.store.is_taken():
            raise StoreExistsError(
                f"{store} exists: --resume goes on with it, --store names another"
            )
        motions = MotionOptions(
            start_index=args.start_index,
            end_index=args.end_index,
            steps_per_trajectory=args.steps_per_env,
            max_trajectories=_share(args.max_trajectories, rank, world),
        )
        npy = _of_rank(args.output_path, rank) if args.distributed else args.output_path
        found = find_motions(os.path.realpath(args.motion))  # as MOSAIC resolves it
        chosen = motions.chosen(found)
        known = seat.known(args.resume)
        if known and known.fields and args.exclude_falls and not known.schema.has_ends:
            raise InputError(f"exclude_falls: {store} does not know which ends were falls")
        num_envs = known.num_envs if known else 0
        num_envs = num_envs or min(args.num_envs, -(-len(chosen) // world))
        return cls(store, seat.store.address, npy if wants_npy else None, num_envs, found, motions)


def _problems(args: argparse.Namespace, world: int) -> list[str]:
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, least in (*_LEAST.items(), ("max_trajectories", world))
        if (value := getattr(args, name)) is not None and value < least
    ]
    if not args.output_path.endswith((".npy", ".zarr")):
        problems.append(f"output_path: expected *.npy or *.zarr, got {args.output_path}")
    if args.output_path.endswith(".npy") and is_url(args.output_path):
        problems.append(f"output_path: expected *.npy on this machine, got {args.output_path}")
    if args.output_path.endswith(".zarr") and args.store:
        problems.append("store: expected only with an output_path ending in .npy")
    if args.output_path.endswith(".zarr") and args.layout != AUTO:
        problems.append("layout: expected only with an output_path ending in .npy")
    if args.exclude_falls and not args.output_path.endswith(".npy"):
        problems.append("exclude_falls: expected only with an output_path ending in .npy")
    if args.exclude_falls and args.layout == GRID:
        problems.append("exclude_falls: a grid holds every pair; use --layout compact")
    return problems + checkpoint_problems(args) + _acting_problems(args)


def _acting(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Acting`` is told, but for the seed and the trust, which are the collection's."""
    names = {f.name for f in fields(Acting)} - {"seed", "trust_student"}
    return {name: getattr(args, name) for name in sorted(names)}


def _acting_problems(args: argparse.Namespace) -> list[str]:
    try:
        acting = Acting(**_acting(args), trust_student=args.trust_checkpoint)
        if acting.student is not None:
            read_student(acting)
    except InputError as error:
        return [str(error)]
    return []


def _share(count: int | None, rank: int, world: int) -> int | None:
    return None if count is None else len(range(count)[rank::world])


def _of_rank(path: str, rank: int) -> str:
    stem, ending = os.path.splitext(path)
    return f"{stem}-rank{rank}{ending}"


_FILES = ("checkpoint_path", "resume_student_checkpoint")
_NAMED = (*_FILES, "wandb_path")


def named_checkpoint(args: argparse.Namespace) -> str:
    """The file that the flags name, fetched from Weights & Biases if it is there; "": none is.

    Raises:
        MissingDependencyError: The checkpoint is to be downloaded, and wandb is not installed.
    """
    named: str = args.checkpoint_path or args.resume_student_checkpoint
    if named:
        return os.path.abspath(named)
    return _downloaded(str(args.wandb_path)) if args.wandb_path else ""


def _downloaded(wandb_path: str) -> str:
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError(f"wandb_path: needs wandb: {error}") from error
    run_path, named = wandb_run(wandb_path)
    run = wandb.Api().run(run_path)
    name = named or newest_checkpoint([file.name for file in run.files()])
    folder = os.path.join("logs", "rsl_rl", "temp")
    run.file(name).download(folder, replace=True)
    return os.path.abspath(os.path.join(folder, name))


def checkpoint_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with them: a file that is not there, or two checkpoints."""
    named = {name: value for name in _NAMED if (value := getattr(args, name))}
    problems = [
        f"{name}: expected a file, found none at {path}"
        for name, path in named.items()
        if name in _FILES and not os.path.isfile(path)
    ]
    if len(named) > 1:
        problems.append(f"{', '.join(named)}: expected one checkpoint, got {len(named)}")
    return problems


def wandb_run(wandb_path: str) -> tuple[str, str | None]:
    """Run path, and the checkpoint's name if ``--wandb_path`` has it behind the run's."""
    run, _, last = wandb_path.rstrip("/").rpartition("/")
    return (run, last) if last.endswith(".pt") else (wandb_path.rstrip("/"), None)


def newest_checkpoint(names: Iterable[str]) -> str:
    """``model_N.pt`` of the highest N.

    Raises:
        InputError: There is none.
    """
    numbers = {int(m[1]): name for name in names if (m := re.fullmatch(r"model_(\d+)\.pt", name))}
    if not numbers:
        raise InputError("wandb_path: expected a run with files model_*.pt, found none")
    return numbers[max(numbers)]
