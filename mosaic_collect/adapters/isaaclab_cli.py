"""Flags of ``scripts/collect_expert_trajectories.py``, and what they mean, before any simulator.

The names are those of MOSAIC's script. Isaac Lab adds its own (``--headless``, ``--device``, ...).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_collect.adapters.isaaclab import MotionOptions
from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.errors import InputError
from mosaic_collect.export.plan import AUTO, COMPACT, GRID

_NO_EFFECT = "accepted as MOSAIC's script does; it has no effect on a collection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags but Isaac Lab's."""
    add = parser.add_argument
    add("--task", required=True, help="name of the teacher's task")
    add("--motion", required=True, help="a motion file (.npz) or a folder of them")
    add("--output_path", required=True, help="*.zarr: a store; *.npy: a store and its export")
    add("--checkpoint_path", help="the teacher's checkpoint (.pt)")
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
    add("--store", help="the store; default: --output_path, ending in .zarr")
    add("--resume", nargs="?", const=True, default=False, type=_flag, help="go on with the store")
    add("--layout", choices=(AUTO, GRID, COMPACT), default=AUTO, help="of the .npy")
    add(
        "--exclude_falls",
        action="store_true",
        help="leave trajectories that ended by a fall out of the .npy; the store keeps them",
    )
    add("--buffer_mb", default="auto", help="of the writer: megabytes, or auto")
    add("--seed", type=int, help="of the environments")
    add("--tasks_module", default="whole_body_tracking.tasks", help="imported for its tasks")
    group = parser.add_argument_group("rsl_rl")
    group.add_argument("--experiment_name", help="folder of logs/rsl_rl to find a checkpoint in")
    group.add_argument("--load_run", help="run folder to find a checkpoint in")
    group.add_argument("--checkpoint", help="checkpoint file within the run")
    group.add_argument("--wandb_path", help="run, or run and file, to download a checkpoint from")
    group.add_argument(
        "--distributed", action="store_true", help="torchrun's processes share the motions"
    )
    for name in ("--run_name", "--logger", "--log_project_name"):
        group.add_argument(name, help=_NO_EFFECT)


@dataclass(frozen=True)
class Plan:
    """What one process is going to do.

    Attributes:
        store: Its store.
        npy: Its export; None: none is asked for.
        num_envs: Environments: as asked for, but at most one per motion; on resume the store's.
        num_motions: Files that it shall go through.
        motions: Which of them, and how much of each.
    """

    store: str
    npy: str | None
    num_envs: int
    num_motions: int
    motions: MotionOptions

    @classmethod
    def of(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
        """Check the flags, before a simulator takes minutes to start.

        Args:
            args: Parsed.
            environ: With torchrun's ``RANK`` and ``WORLD_SIZE``, if ``--distributed``.

        Raises:
            InputError: A flag that makes no sense, with all others that make none; or falls are
                to be left out of a store that does not know them.
            StoreError: ``--resume``, and the store cannot be read.
        """
        rank, world = 0, 1
        if args.distributed:
            rank, world = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
        problems = _problems(args)
        if problems:
            raise InputError("; ".join(problems))
        wants_npy = args.output_path.endswith(".npy")
        store = args.store or os.path.splitext(args.output_path)[0] + ".zarr"
        store = _of_rank(store, rank, world)
        motions = MotionOptions(
            start_index=args.start_index,
            end_index=args.end_index,
            steps_per_trajectory=args.steps_per_env,
            max_trajectories=_share(args.max_trajectories, rank, world),
            max_steps=args.max_steps,
            rank=rank,
            world=world,
        )
        npy = _of_rank(args.output_path, rank, world) if wants_npy else None
        files = motion_files(args.motion)[motions.start_index : motions.end_index][rank::world]
        known = TrajectoryDataset(store) if args.resume else None
        if known and known.fields and args.exclude_falls and not known.schema.has_ends:
            raise InputError(f"exclude_falls: {store} does not know which ends were falls")
        num_envs = known.num_envs if known else 0
        num_envs = num_envs or max(1, min(args.num_envs, len(files)))
        return cls(store, npy, num_envs, len(files), motions)


def motion_files(motion: str) -> list[str]:
    """The motion files that MOSAIC's command will find, by path.

    Raises:
        InputError: There is none.
    """
    path = Path(motion)
    found = sorted(str(p) for p in path.rglob("*.npz")) if path.is_dir() else [motion]
    if not found or not os.path.exists(found[0]):
        raise InputError(f"motion: expected .npz files at {motion}, found none")
    return found


def _problems(args: argparse.Namespace) -> list[str]:
    problems = []
    if not args.output_path.endswith((".npy", ".zarr")):
        problems.append(f"output_path: expected *.npy or *.zarr, got {args.output_path}")
    if args.output_path.endswith(".zarr") and args.store:
        problems.append("store: expected only with an output_path ending in .npy")
    if args.start_index < 0:
        problems.append(f"start_index: expected 0 or more, got {args.start_index}")
    if args.exclude_falls and not args.output_path.endswith(".npy"):
        problems.append("exclude_falls: expected only with an output_path ending in .npy")
    if args.exclude_falls and args.layout == GRID:
        problems.append("exclude_falls: a grid holds every pair; use --layout compact")
    if args.num_envs < 1:
        problems.append(f"num_envs: expected at least 1, got {args.num_envs}")
    if args.checkpoint_path and not os.path.isfile(args.checkpoint_path):
        problems.append(f"checkpoint_path: expected a file, found none at {args.checkpoint_path}")
    return problems


def _share(count: int | None, rank: int, world: int) -> int | None:
    return None if count is None else len(range(count)[rank::world])


def _of_rank(path: str, rank: int, world: int) -> str:
    stem, ending = os.path.splitext(path)
    return path if world == 1 else f"{stem}-rank{rank}{ending}"


def _flag(text: str) -> bool:
    """rsl_rl's ``--resume True`` is known from training."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected True or False, got {text}")
    return text.lower() in ("true", "1")


def json_safe(value: Any) -> Any:
    """A config as JSON values; what JSON cannot hold, by its words."""
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else str(value)
