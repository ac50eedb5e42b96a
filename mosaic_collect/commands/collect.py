"""``mosaic-collect collect``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mosaic_collect.adapters.isaaclab.options import CollectOptions as IsaacLabOptions
from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.checks import needed
from mosaic_collect.collection.acting import STARTS, Acting
from mosaic_collect.collection.progress import ProgressBar
from mosaic_collect.collection.seat import Seat
from mosaic_collect.commands.options import add_options
from mosaic_collect.commands.shared import add_resume, interrupted_text, number_or_auto
from mosaic_collect.errors import InputError
from mosaic_collect.recording.encoding.process import ENCODE_IN
from mosaic_collect.recording.signals import termination_as_exit

NAME = "collect"
HELP = "Run an rsl_rl checkpoint in a simulated task and record it into a store."
EXAMPLE = (
    "mosaic-collect collect --sim mjlab --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ "
    "--checkpoint model.pt --num-envs 1024 --max-steps 5000 --output expert.zarr"
)
MJLAB, ISAACLAB = "mjlab", "isaaclab"
#: What only Isaac Lab is told, but for what only programs tell.
ISAACLAB_ONLY = ("tasks_module", "overrides", "launcher", "student_task", "student_overrides")
_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments; those that are not given stay as the simulator's options have them."""
    add = parser.add_argument
    add("--sim", choices=(MJLAB, ISAACLAB), default=MJLAB, help="the simulator")
    add("--task", required=True, help="a registered task of it")
    add("--checkpoint", required=True, help="an rsl_rl checkpoint of the policy")
    add(
        "--trust-checkpoint",
        action="store_true",
        help="let code run that the checkpoint holds; without it, such a one is refused",
    )
    add("--output", required=True, help="the store")
    add("--max-steps", type=int, help="steps of the store in all; needed without --passes")
    add("--motion", help="a motion .npz, or a folder of them, at any depth")
    add("--resample", action="store_true", help="motions of other rates, to the task's steps")
    add("--allow-fps", action="store_true", help="play those frame by frame, at another speed")
    add("--num-envs", type=int, help="environments; default 64, or the store's")
    add("--passes", type=int, help="trajectories of each motion; default: go round to --max-steps")
    add_acting(parser)
    add_resume(parser, "the store")
    add(
        "--distributed",
        action="store_true",
        help="be one of torchrun's ranks: --output is a folder with a store of each, motions are "
        "shared out, the device is that of the local rank",
    )
    add(
        "--take-over",
        nargs="+",
        type=int,
        default=[],
        metavar="RANK",
        help="ranks that will not come back: the others record what they had not finished",
    )
    add(
        "--allow-changed",
        nargs="+",
        default=[],
        metavar="NAME",
        help="on resume, what may differ: task, checkpoint, motions, observations, acting",
    )
    add("--record-states", action="store_true", help="MuJoCo's state, too, for 'replay'")
    add("--stop-on-nonfinite", action="store_true", help="end with the first NaN or infinity")
    add("--device", help="cpu or cuda:0; default: CUDA if there is one")
    add("--seed", type=int, help="of noise; default: 0 in mjlab, the task's own in Isaac Lab")
    add(
        "--student-history",
        type=int,
        help="frames of the student; default: 5 in mjlab, where 0 makes no student; in Isaac Lab "
        "as the student's task has it, and no student if nothing of it is said",
    )
    add(
        "--student-drop",
        nargs="+",
        metavar="TERM",
        help="terms of the policy's group that the student does without; default in mjlab: "
        "motion_anchor_pos_b and base_lin_vel",
    )
    add("--no-student-noise", action="store_false", dest="student_noise")
    add("--no-teacher-noise", action="store_false", dest="teacher_noise", help="policy sees none")
    add("--buffer-mb", type=number_or_auto, default="auto", help='bound of the host ring; "auto"')
    add("--compressor", choices=("auto", "lz4", "zstd", "none"), default="auto")
    add("--encode-in", choices=ENCODE_IN, default="auto", help="of blocks")
    add("--commit-seconds", type=float, default=60.0, help="commit that often")
    group = parser.add_argument_group("Isaac Lab, 2.1 to 2.3 and 3")
    shown = {f.name for f in fields(IsaacLabOptions)} - set(ISAACLAB_ONLY)
    add_options(
        group,
        IsaacLabOptions,
        but=shown,
        overrides={"metavar": "NAME=VALUE"},
        launcher={"metavar": "FLAGS"},
    )


def add_acting(parser: argparse._ActionsContainer, between: str = "-") -> None:
    """Options of who acts; arguments as ``add_options`` takes them."""
    more: dict[str, Any] = {"act_by": {"metavar": "WHO"}, "start": {"choices": STARTS}}
    add_options(parser, Acting, but=("seed",), between=between, **more)


def run(arguments: argparse.Namespace) -> bool:
    """Collect with a progress bar."""
    if arguments.sim == ISAACLAB:
        from mosaic_collect.adapters.isaaclab.collect import run_collect as run_isaaclab

        options = given(IsaacLabOptions, arguments)
        watched(lambda bar: run_isaaclab(options, bar, lambda r: tell(r, options)), options)
        return True
    _refuse_isaaclabs(arguments)
    with needed("collecting in mjlab needs it: pip install 'mosaic-collect[mjlab]'"):
        from mosaic_collect.adapters.mjlab.collect import CollectOptions, run_collect
    in_mjlab = given(CollectOptions, arguments)
    tell(watched(lambda bar: run_collect(in_mjlab, bar), in_mjlab), in_mjlab)
    return True


def given(kind: type[_T], arguments: argparse.Namespace) -> _T:
    """The options with what was given; else their own defaults."""
    told: Mapping[str, Any] = vars(arguments)
    names = [f.name for f in fields(kind) if told.get(f.name) is not None]  # type: ignore[arg-type]
    return kind(**{name: told[name] for name in names})


def watched(collect: Callable[[Any], _T], options: RecordOptions) -> _T:
    """A collection behind a bar; an interrupted one says how to go on."""
    try:
        with termination_as_exit(), ProgressBar(options.max_steps) as bar:
            return collect(bar)
    except (KeyboardInterrupt, SystemExit):
        store = Seat.of(options.output, options.distributed).store
        print(interrupted_text(store.address), file=sys.stderr)
        raise


def tell(result: Any, options: RecordOptions) -> None:
    """What a collection came to: a ``CollectResult``."""
    if result.already_complete:
        print(f"{result.store} is complete with {result.num_steps:,} steps; nothing to do")
        return
    ends = f"{result.completed:,} trajectories reached their motion's end, {result.fell:,} did not"
    print(f"{result.store}: {result.num_steps:,} steps" + (f"; {ends}" if options.motion else ""))
    for note in result.notes:
        print(f"note: {note}")


def _refuse_isaaclabs(arguments: argparse.Namespace) -> None:
    wrong = [name for name in ISAACLAB_ONLY if getattr(arguments, name)]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: expected only with --sim isaaclab")
