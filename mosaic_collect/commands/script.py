"""Flags of ``scripts/collect_expert_trajectories.py``, and the collection that they mean.

They are the options of a collection in Isaac Lab, by MOSAIC's names where it has other ones, and
those of the script's export. Isaac Lab adds its own (``--headless``, ``--device``, ...). All of it
is checked before a simulator takes minutes to start.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from mosaic_collect.adapters.isaaclab.launch import installed
from mosaic_collect.adapters.isaaclab.options import TRAINING_RUN, IsaacLabCollectOptions
from mosaic_collect.checks import local_path, needed
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.ranks import RankStore, torchrun_ranks
from mosaic_collect.commands.collect import SHOWN
from mosaic_collect.commands.options import add_options
from mosaic_collect.errors import InputError, MissingDependencyError, StoreExistsError
from mosaic_collect.export.plan import AUTO
from mosaic_collect.npyfile.layout import COMPACT, GRID
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.view import AUTO as AUTO_RESUME

#: Options that the script has in its own way, or not at all.
_OWN = (
    *("task", "motion", "output", "num_envs", "tasks_module", "notes", "steps_per_trajectory"),
    *("passes", "device", "launcher", "overrides", "overwrite", "allow_changed"),
)
_REQUIRED = ("task", "motion", "output_path")
_FILES = ("checkpoint", "resume_student_checkpoint")
_DEFAULTS: dict[str, Any] = {
    "num_envs": 16,
    "steps_per_trajectory": 100,
    "tasks_module": "whole_body_tracking.tasks",
    "checkpoint": None,
    "resume": False,
    "distributed": False,
    "max_trajectories": None,
    "trust_checkpoint": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags but Isaac Lab's."""
    add = parser.add_argument
    add("--task", help="name of the teacher's task")
    add("--motion", type=_path, help="a motion file (.npz) or a folder of them")
    add("--output_path", type=_place, help="*.zarr: a store; *.npy: a store and its export")
    add("--num_envs", type=int, help="environments, at most one per motion (default: 16)")
    add("--tasks_module", help=f"module with tasks (default: {_DEFAULTS['tasks_module']})")
    more: dict[str, dict[str, Any]] = {
        **SHOWN,
        "checkpoint": {"name": "checkpoint_path", "type": _path},
        "student_history": {"name": "student_obs_history"},
        "load_checkpoint": {"name": "checkpoint"},
        "resume": {"nargs": "?", "const": True, "type": _resume, "metavar": "True|False|auto"},
    }
    runs = {"rsl_rl": TRAINING_RUN}
    add_options(parser, IsaacLabCollectOptions, but=_OWN, between="_", groups=runs, more=more)
    no: dict[str, Any] = {"action": "store_false", "default": argparse.SUPPRESS}
    add("--disable_student_noise", dest="student_noise", help="student_noise: no", **no)
    add("--disable_terminations", dest="terminations", help="terminations: no", **no)
    yes = {**no, "action": "store_true"}
    add("--enable_terminations", dest="terminations", help="terminations: yes", **yes)
    words = "end a trajectory after that many rows (default: 100)"
    add("--steps_per_env", dest="steps_per_trajectory", type=int, help=words)
    add("--store", type=_place, help="the store; default: --output_path, ending in .zarr")
    add("--layout", choices=(AUTO, GRID, COMPACT), default=AUTO, help="layout of the .npy")
    add(
        "--exclude_falls",
        action="store_true",
        help="leave trajectories that ended by a fall out of the .npy; the store keeps them",
    )
    group = next(group for group in parser._action_groups if group.title == "rsl_rl")
    group.add_argument("--wandb_path", help="run, or run and file, to download a checkpoint from")
    words = "as --checkpoint_path, which MOSAIC's script has, too"
    group.add_argument("--resume_student_checkpoint", type=_path, help=words)
    parser.set_defaults(**_DEFAULTS)


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parse our flags and those of the installed Isaac Lab; the rest is Hydra's."""
    missing = None
    try:
        # Its launcher parses the command line while it adds its flags, at a time when ``--help`` is
        # none: so nothing is required before, or help could only be had with all flags given.
        installed().add_flags(parser)
    except MissingDependencyError as error:
        missing = str(error)
    for action in parser._actions:
        action.required |= action.dest in _REQUIRED
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
    """Path of a store, which may be a URL."""
    return text if is_url(text) else _path(text)


class Plan(NamedTuple):
    """Collection and export of one process."""

    options: IsaacLabCollectOptions
    npy: str | None  # export of this process's store; None: none is wanted
    found: list[Motion]  # all motions, equal ones once


def plan_collection(
    args: argparse.Namespace, environ: Mapping[str, str], overrides: Sequence[str] = ()
) -> Plan:
    """Check the flags and Hydra's overrides, before a simulator takes minutes to start.

    Raises:
        InputError: Flags that make no sense, or motion files that cannot be played: all of them.
        StoreError: ``--resume``, and the store cannot be read; or it is there without.
    """
    rank, _, world = torchrun_ranks(environ) if args.distributed else (0, 0, 1)
    problems = list(_problems(args, world))
    store = args.store or os.path.splitext(args.output_path)[0] + ".zarr"
    given = {
        **vars(args),
        "output": store,
        "checkpoint": "",
        # Isaac Lab's --device has a default, which is no wish.
        "device": args.device if getattr(args, "device_explicit", False) else None,
        "passes": 1,
        "overrides": overrides,
        "allow_changed": None,
        "notes": {"flags": vars(args)},
    }
    taken = [f.name for f in fields(IsaacLabCollectOptions) if f.name in given]
    try:
        options = IsaacLabCollectOptions(**{name: given[name] for name in taken})
        options.check()
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    rank_store = RankStore.of(store, args.distributed, environ)
    if not args.resume and rank_store.blobs.is_taken():
        raise StoreExistsError(f"{store} exists: --resume goes on with it, --store names another")
    options = replace(options, checkpoint=named_checkpoint(args))
    most, npy = options.max_trajectories, args.output_path
    if args.distributed:
        most = None if most is None else len(range(most)[rank::world])
        npy = f"-rank{rank}".join(os.path.splitext(npy))
    found = find_motions(os.path.realpath(args.motion))  # as MOSAIC resolves it
    at_most = -(-len(options.chosen(found)) // world)
    known = rank_store.known(args.resume)
    num_envs = (known.num_envs if known else 0) or min(args.num_envs, at_most)
    options = replace(options, num_envs=num_envs, max_trajectories=most)
    return Plan(options, npy if npy.endswith(".npy") else None, found)


def _problems(args: argparse.Namespace, world: int) -> Iterator[str]:
    """What is wrong with the flags that a collection does not have."""
    if 0 < (args.max_trajectories or 0) < world:
        yield f"max_trajectories: expected at least {world}, got {args.max_trajectories}"
    path, is_npy = args.output_path, args.output_path.endswith(".npy")
    if not is_npy and not path.endswith(".zarr"):
        yield f"output_path: expected *.npy or *.zarr, got {path}"
    if is_npy and is_url(path):
        yield f"output_path: expected *.npy on this machine, got {path}"
    of_npy = {
        "store": args.store,
        "layout": args.layout != AUTO,
        "exclude_falls": args.exclude_falls,
    }
    for name in [name for name, is_given in of_npy.items() if is_given and not is_npy]:
        yield f"{name}: expected only with an output_path ending in .npy"
    if args.exclude_falls and args.layout == GRID:
        yield "exclude_falls: a grid holds every pair; use --layout compact"
    named = {name: path for name in (*_FILES, "wandb_path") if (path := getattr(args, name))}
    for name in _FILES:
        if name in named and not os.path.isfile(named[name]):
            yield f"{name}: expected a file, found none at {named[name]}"
    if len(named) > 1:
        yield f"{', '.join(named)}: expected one checkpoint, got {len(named)}"


def named_checkpoint(args: argparse.Namespace) -> str:
    """The file that the flags name, fetched from Weights & Biases if it is there; "": none is."""
    if named := args.checkpoint or args.resume_student_checkpoint:
        return os.path.abspath(str(named))
    if not args.wandb_path:
        return ""
    with needed("wandb_path: needs wandb"):
        import wandb
    run_path, named = wandb_run(args.wandb_path)
    run = wandb.Api().run(run_path)
    name = named or newest_checkpoint([file.name for file in run.files()])
    folder = os.path.join("logs", "rsl_rl", "temp")
    run.file(name).download(folder, replace=True)
    return os.path.abspath(os.path.join(folder, name))


def wandb_run(wandb_path: str) -> tuple[str, str | None]:
    """Run path, and the checkpoint's name if ``--wandb_path`` has it behind the run's."""
    run, _, last = wandb_path.rstrip("/").rpartition("/")
    return (run, last) if last.endswith(".pt") else (wandb_path.rstrip("/"), None)


def newest_checkpoint(names: Iterable[str]) -> str:
    """``model_N.pt`` of the highest N."""
    numbers = {int(m[1]): name for name in names if (m := re.fullmatch(r"model_(\d+)\.pt", name))}
    if not numbers:
        raise InputError("wandb_path: expected a run with files model_*.pt, found none")
    return numbers[max(numbers)]
