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
from mosaic_collect.collection.progress import ProgressBar
from mosaic_collect.collection.seat import Seat
from mosaic_collect.commands.collect_arguments import ISAACLAB, ISAACLAB_ONLY, add_arguments
from mosaic_collect.commands.shared import interrupted_text
from mosaic_collect.errors import InputError
from mosaic_collect.recording.signals import termination_as_exit

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "given", "run", "tell", "watched"]

NAME = "collect"
HELP = "Run an rsl_rl checkpoint in a simulated task and record it into a store."
EXAMPLE = (
    "mosaic-collect collect --sim mjlab --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ "
    "--checkpoint model.pt --num-envs 1024 --max-steps 5000 --output expert.zarr"
)
_T = TypeVar("_T")


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
