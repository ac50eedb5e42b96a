"""``mosaic-collect watch``."""

from __future__ import annotations

import argparse
import math
import sys
import time

from mosaic_collect.errors import InputError
from mosaic_collect.look.watch import Look, Watcher, look_line, look_lines
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import status_words

NAME = "watch"
HELP = (
    "Look at a store while it is written, from another terminal: steps, rate, time left, disk, "
    "stalls, trajectories. Ends when the store is complete, when no writer is at work any more, "
    "or by Ctrl-C. Exit code 1: the writer stopped before the store was complete."
)
EXAMPLE = "mosaic-collect watch expert.zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", help="the store")
    parser.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="between looks (default %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps it is to have (default: what it tells)"
    )
    parser.add_argument("--once", action="store_true", help="look once")


def run(arguments: argparse.Namespace) -> bool:
    """Look until the store is complete, or all of several."""
    if not (math.isfinite(arguments.every) and arguments.every > 0):
        raise InputError(f"every: expected a number above 0, got {arguments.every}")
    dataset = TrajectoryDataset(arguments.store)
    watchers: dict[str, Watcher] = {}
    lines = 0
    try:
        while True:
            for part in dataset.parts:
                name = arguments.store if part is dataset else part.path
                watchers.setdefault(name, Watcher(part, arguments.steps))
            looks = {path: watcher.look() for path, watcher in watchers.items()}
            lines = _show(looks, lines)
            dataset.refresh()
            whole = len(looks) >= len(dataset.parts) and not dataset.missing
            if arguments.once:
                return True
            if looks and whole and all(look.is_over for look in looks.values()):
                return all(look.is_complete for look in looks.values())
            time.sleep(max(arguments.every, 0.1))
    except KeyboardInterrupt:  # the way out, and no failure
        return True


def _show(looks: dict[str, Look], before: int) -> int:
    """Print looks over the last ones where that can be; gives the lines that they take."""
    if not sys.stdout.isatty():
        for store, look in looks.items():
            print(f"{store}: {look_line(look)}", flush=True)
        return 0
    lines = [
        line
        for store, look in looks.items()
        for line in (f"{store}: {status_words(look.status)}", *look_lines(look))
    ]
    up = f"\x1b[{before}F" if before else ""
    # Each line is cleared to its end, so nothing of a longer one before stays.
    print(up + "\n".join(f"{line}\x1b[K" for line in lines), flush=True)
    return len(lines)
