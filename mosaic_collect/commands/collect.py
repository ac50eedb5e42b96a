"""``mosaic-collect collect``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from mosaic_collect.collection.acting import STARTS, Acting
from mosaic_collect.collection.progress import ProgressBar
from mosaic_collect.commands.options import add_options
from mosaic_collect.commands.shared import add_resume, interrupted_text, number_or_auto
from mosaic_collect.errors import MissingDependencyError
from mosaic_collect.recording.encoding.process import ENCODE_IN
from mosaic_collect.recording.signals import termination_as_exit

NAME = "collect"
HELP = "Run an rsl_rl checkpoint in a simulated task and record it into a store."
EXAMPLE = (
    "mosaic-collect collect --sim mjlab --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ "
    "--checkpoint model.pt --num-envs 1024 --max-steps 5000 --output expert.zarr"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add = parser.add_argument
    add("--sim", choices=("mjlab",), default="mjlab", help="the simulator")
    add("--task", required=True, help="a registered task of it")
    add("--checkpoint", required=True, help="an rsl_rl checkpoint of the policy")
    add(
        "--trust-checkpoint",
        action="store_true",
        help="let code run that the checkpoint holds; without it, such a one is refused",
    )
    add("--output", required=True, help="the store")
    add("--max-steps", type=int, required=True, help="steps of the store in all")
    add("--motion", help="a motion .npz, or a folder of them, at any depth")
    add("--resample", action="store_true", help="motions of other rates, to the task's steps")
    add("--allow-fps", action="store_true", help="play those frame by frame, at another speed")
    add("--num-envs", type=int, help="environments; default 64, or the store's")
    add("--passes", type=int, help="trajectories of each motion; default: go round to --max-steps")
    add_options(parser, Acting, but=("seed",), act_by={"metavar": "WHO"}, start={"choices": STARTS})
    add_resume(parser, "the store")
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
    add("--seed", type=int, default=0, help="of noise")
    add("--student-history", type=int, default=5, help="frames; 0: no student")
    add("--no-student-noise", action="store_false", dest="student_noise")
    add("--no-teacher-noise", action="store_false", dest="teacher_noise", help="policy sees none")
    add("--buffer-mb", type=number_or_auto, default="auto", help='bound of the host ring; "auto"')
    add("--compressor", choices=("auto", "lz4", "zstd", "none"), default="auto")
    add("--encode-in", choices=ENCODE_IN, default="auto", help="of blocks")
    add("--commit-seconds", type=float, default=60.0, help="commit that often")


def run(arguments: argparse.Namespace) -> bool:
    """Collect with a progress bar."""
    try:
        from mosaic_collect.adapters.mjlab.collect import CollectOptions, run_collect
    except ImportError as error:
        raise MissingDependencyError(
            f"collecting in mjlab needs it: pip install 'mosaic-collect[mjlab]' ({error})"
        ) from error
    options = CollectOptions(**{f.name: getattr(arguments, f.name) for f in fields(CollectOptions)})
    try:
        with termination_as_exit(), ProgressBar(options.max_steps) as bar:
            result = run_collect(options, bar)
    except (KeyboardInterrupt, SystemExit):
        print(interrupted_text(options.output), file=sys.stderr)
        raise
    if result.already_complete:
        print(f"{options.output} is complete with {result.num_steps:,} steps; nothing to do")
        return True
    ends = f"{result.completed:,} trajectories reached their motion's end, {result.fell:,} did not"
    print(f"{options.output}: {result.num_steps:,} steps" + (f"; {ends}" if options.motion else ""))
    for note in result.notes:
        print(f"note: {note}")
    return True
