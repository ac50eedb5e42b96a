"""``mosaic-collect collect``."""

from __future__ import annotations

import argparse
import sys

from mosaic_collect.collection.progress import ProgressBar
from mosaic_collect.commands.shared import interrupted_text, number_or_auto
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
    parser.add_argument("--sim", choices=("mjlab",), default="mjlab", help="the simulator")
    parser.add_argument("--task", required=True, help="a registered task of it")
    parser.add_argument("--checkpoint", required=True, help="an rsl_rl checkpoint of the policy")
    parser.add_argument("--output", required=True, help="the store")
    parser.add_argument("--max-steps", type=int, required=True, help="steps of the store in all")
    parser.add_argument("--motion", help="a motion .npz, or a folder of them, at any depth")
    parser.add_argument("--num-envs", type=int, help="environments; default 64, or the store's")
    parser.add_argument(
        "--passes", type=int, help="trajectories of each motion; default: go round to --max-steps"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the store")
    parser.add_argument(
        "--allow-changed",
        nargs="+",
        default=[],
        metavar="NAME",
        help="on resume, what may differ: task, checkpoint, motions, observations",
    )
    parser.add_argument("--device", help="cpu or cuda:0; default: CUDA if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of noise")
    parser.add_argument("--student-history", type=int, default=5, help="frames; 0: no student")
    parser.add_argument("--no-student-noise", action="store_true")
    parser.add_argument("--no-teacher-noise", action="store_true", help="policy sees no noise")
    parser.add_argument("--buffer-mb", default="auto", help='bound of the host ring; "auto"')
    parser.add_argument("--compressor", choices=("auto", "lz4", "zstd", "none"), default="auto")
    parser.add_argument("--encode-in", choices=ENCODE_IN, default="auto", help="of blocks")
    parser.add_argument("--commit-seconds", type=float, default=60.0, help="commit that often")


def run(arguments: argparse.Namespace) -> bool:
    """Collect with a progress bar."""
    try:
        from mosaic_collect.adapters.mjlab.collect import CollectOptions, run_collect
    except ImportError as error:
        raise MissingDependencyError(
            f"collecting in mjlab needs it: pip install 'mosaic-collect[mjlab]' ({error})"
        ) from error
    options = CollectOptions(
        task=arguments.task,
        checkpoint=arguments.checkpoint,
        output=arguments.output,
        max_steps=arguments.max_steps,
        motion=arguments.motion,
        num_envs=arguments.num_envs,
        passes=arguments.passes,
        resume=arguments.resume,
        allow_changed=tuple(arguments.allow_changed),
        device=arguments.device,
        seed=arguments.seed,
        teacher_noise=not arguments.no_teacher_noise,
        student_history=arguments.student_history,
        student_noise=not arguments.no_student_noise,
        buffer_mb=number_or_auto(arguments.buffer_mb),
        compressor=arguments.compressor,
        encode_in=arguments.encode_in,
        commit_seconds=arguments.commit_seconds,
    )
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
    return True
