"""Flags of ``scripts/collect_expert_trajectories.py``, and what they mean, before any simulator.

The names are those of MOSAIC's script. Isaac Lab adds its own (``--headless``, ``--device``, ...).
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mosaic_collect.adapters.isaaclab.acting import acting_of, acting_problems, add_acting
from mosaic_collect.adapters.isaaclab.checkpoint import checkpoint_problems
from mosaic_collect.adapters.isaaclab.collect import MotionOptions
from mosaic_collect.checks import local_path
from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.errors import InputError, StoreExistsError
from mosaic_collect.export.options import AUTO
from mosaic_collect.npyfile.layout import COMPACT, GRID
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.address import blobs_at
from mosaic_collect.store.root import AUTO as AUTO_RESUME
from mosaic_collect.store.root import goes_on
from mosaic_collect.store.urls import is_url

# Of the logger, and of the teacher that a student's training asks; a collection has neither.
_WITHOUT_EFFECT = (
    *("--run_name", "--logger", "--log_project_name"),
    *("--load_teacher_run", "--teacher_checkpoint"),
)

#: The lowest values that make sense; every process must have a trajectory to collect, too.
_LEAST = {
    "num_envs": 1,
    "steps_per_env": 1,
    "max_steps": 1,
    "start_index": 0,
    "student_obs_history": 0,
}


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add all flags but Isaac Lab's.

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
        help="let code run that the checkpoint holds; without it, such a one is refused",
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
    add_acting(parser.add_argument_group("acting"))
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
    for name in _WITHOUT_EFFECT:
        group.add_argument(name, help="accepted, for MOSAIC's script does; changes no collection")
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


@dataclass(frozen=True)
class Plan:
    """What one process is going to do.

    Attributes:
        store: Its store.
        npy: Its export; None: none is asked for.
        num_envs: Environments: as asked for, but at most one per motion; on resume the store's.
        found: All motions, twins once.
        num_motions: Those of them that it shall go through.
        motions: Which of them, and how much of each.
        acting: Who acts, and from where.
    """

    store: str
    npy: str | None
    num_envs: int
    found: list[Motion]
    num_motions: int
    motions: MotionOptions
    acting: Acting

    @classmethod
    def of(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
        """Check the flags, before a simulator takes minutes to start.

        Args:
            args: Parsed.
            environ: With torchrun's ``RANK`` and ``WORLD_SIZE``, if ``--distributed``.

        Raises:
            InputError: A flag that makes no sense, with all others that make none; motion files
                that cannot be played, all of them; or falls are to be left out of a store that
                does not know them.
            StoreError: ``--resume``, and the store cannot be read; or it is there without.
        """
        rank, world = 0, 1
        if args.distributed:
            rank, world = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
        problems = _problems(args, world)
        if problems:
            raise InputError("; ".join(problems))
        wants_npy = args.output_path.endswith(".npy")
        store = args.store or os.path.splitext(args.output_path)[0] + ".zarr"
        store = _of_rank(store, rank, world)
        if not args.resume and blobs_at(store).is_taken():
            raise StoreExistsError(
                f"{store} exists: --resume goes on with it, --store names another"
            )
        motions = MotionOptions(
            start_index=args.start_index,
            end_index=args.end_index,
            steps_per_trajectory=args.steps_per_env,
            max_trajectories=_share(args.max_trajectories, rank, world),
            max_steps=args.max_steps,
            rank=rank,
            world=world,
            allow_fps=args.allow_fps,
        )
        npy = _of_rank(args.output_path, rank, world) if wants_npy else None
        found = find_motions(os.path.realpath(args.motion))  # as MOSAIC resolves it
        chosen = motions.chosen(found)
        known = TrajectoryDataset(store) if goes_on(blobs_at(store), args.resume) else None
        if known and known.fields and args.exclude_falls and not known.schema.has_ends:
            raise InputError(f"exclude_falls: {store} does not know which ends were falls")
        num_envs = known.num_envs if known else 0
        num_envs = num_envs or min(args.num_envs, len(chosen))
        return cls(store, npy, num_envs, found, len(chosen), motions, acting_of(args))


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
    return problems + checkpoint_problems(args) + acting_problems(args)


def _share(count: int | None, rank: int, world: int) -> int | None:
    return None if count is None else len(range(count)[rank::world])


def _of_rank(path: str, rank: int, world: int) -> str:
    stem, ending = os.path.splitext(path)
    return path if world == 1 else f"{stem}-rank{rank}{ending}"


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
