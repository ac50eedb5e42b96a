"""Flags of ``scripts/collect_expert_trajectories.py``, and what they mean, before any simulator.

The names are those of MOSAIC's script. Isaac Lab adds its own (``--headless``, ``--device``, ...).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence

from mosaic_collect.adapters.isaaclab.launch import installed
from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError, MissingDependencyError
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
        required: Of ``add_arguments``.

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
