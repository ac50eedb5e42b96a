"""``mosaic-collect verify``."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

from mosaic_collect.adapters.rsl_rl.runner_cfg import read_runner_cfg
from mosaic_collect.checks import local_path, needed
from mosaic_collect.commands.reports import add_json, as_json
from mosaic_collect.commands.shared import add_engine, bar, chosen_engine
from mosaic_collect.errors import InputError, StoreError
from mosaic_collect.export.compare import verify_export
from mosaic_collect.look.canvas import check_picture
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.store_set import StoreSet
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.reading.verify_report import VerifyReport
from mosaic_collect.replay import TOLERANCE, check_tolerance, plot_replay
from mosaic_collect.store.place import Place
from mosaic_collect.text import size_of

NAME = "verify"
HELP = (
    "Check every checksum of stores and that metadata and files agree; compare an export with "
    "them bit by bit; replay observations through the checkpoint. Exit code 1: something is off."
)
EXAMPLE = (
    "mosaic-collect verify expert.zarr --npy expert.npy --checkpoint model.pt --plot replay.png"
)

#: The checkpoint as a store's policy, and its groups.
_Recorded = tuple[Any, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", nargs="+", help="the store, or several")
    parser.add_argument(
        "--npy",
        metavar="FILE",
        help="compare this export with the store; one of several with all, in the same order",
    )
    add_json(parser)
    add_engine(parser)
    replay = parser.add_argument_group(
        "replay",
        "The checkpoint, given every recorded observation of a valid row again, must say the mean "
        "and sigma that were recorded. Needs the generation of rsl_rl that wrote the checkpoint.",
    )
    replay.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="an rsl_rl checkpoint",
    )
    replay.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="let code run that the checkpoint holds, or that the training config names beyond "
        "rsl_rl and mjlab; without it, such ones are refused",
    )
    replay.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="largest difference allowed, absolute, in units of the actions (default %(default)s). "
        "On the hardware that recorded there is usually none. Other float32 kernels, as of a GPU "
        "and a CPU, differ by some 2e-6 of a row's largest value, those in TF32 by some 2e-3. The "
        "report tells this relative difference, too: where it is of that size and the tolerance is "
        "exceeded all the same, raise the tolerance or use the --device that recorded",
    )
    replay.add_argument("--device", default="cpu", help="of the network (default %(default)s)")
    replay.add_argument(
        "--runner-cfg",
        metavar="FILE",
        help="the training config (.json or .yaml, such as params/agent.yaml beside the "
        "checkpoint); default: what the store says",
    )
    replay.add_argument(
        "--groups",
        nargs="+",
        type=_group,
        metavar="NAME=WIDTH",
        help="observation groups that make up the recorded observations, in order, and with their "
        "axes those in a field of their own (camera=3x32x32); default: what the store says, or "
        "else one group as wide as they are",
    )
    replay.add_argument(
        "--plot", metavar="FILE", help="draw the differences over the steps (.png, .svg, .pdf)"
    )


def _group(text: str) -> tuple[str, int | tuple[int, ...]]:
    name, _, row = text.partition("=")
    axes = row.split("x")
    if not name or not all(axis.isdecimal() and int(axis) for axis in axes):
        raise argparse.ArgumentTypeError(f"expected NAME=WIDTH, such as policy=154, got {text!r}")
    return name, tuple(map(int, axes)) if len(axes) > 1 else int(row)


def run(arguments: argparse.Namespace) -> bool:
    """Verify, printing every problem; True if there is none."""
    _check(arguments)
    first = _first_policy(arguments)
    # Lists and not generators: each store is looked at, whatever the ones before were like.
    with chosen_engine(arguments) as engine:
        good = all([_verify(store, arguments, engine) for store in arguments.store])  # noqa: C419
        if arguments.npy and good:
            with bar("compare") as shown:
                report = verify_export(arguments.store, arguments.npy, shown.update, engine)
            good = _say(report, "arrays", arguments)
        if arguments.checkpoint and good:
            for part in _parts(arguments):
                good &= _replay(part, first or _recorded(part, arguments), arguments, engine)
                first = None
    return good


def _check(arguments: argparse.Namespace) -> None:
    """What would be wrong only after hours, before them."""
    if arguments.checkpoint is None:
        given = [n for n in ("plot", "runner_cfg", "groups") if getattr(arguments, n) is not None]
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise InputError(f"{names}: expected --checkpoint FILE beside it")
    check_tolerance(arguments.tolerance)
    if arguments.npy is not None:
        open(local_path(arguments.npy, "npy"), "rb").close()
    if arguments.runner_cfg is not None:
        read_runner_cfg(arguments.runner_cfg)
    if arguments.plot is not None:
        check_picture(arguments.plot)
        if len(_parts(arguments)) > 1:
            raise InputError("--plot: expected one store, for each would replace the last one's")


def _first_policy(arguments: argparse.Namespace) -> _Recorded | None:
    """That of the first store; None: no checkpoint is asked for, or that store is a bad one."""
    if arguments.checkpoint is None:
        return None
    with contextlib.suppress(StoreError):  # which verifying it tells
        return _recorded(_parts(arguments)[0], arguments)
    return None


def _parts(arguments: argparse.Namespace) -> list[TrajectoryDataset]:
    """The stores one by one, those of a folder of ranks, too."""
    views = StoreSet.open(Place.of(arguments.store, "store")).with_steps()
    return [TrajectoryDataset(view.blobs) for view in views]


def _verify(store: str, arguments: argparse.Namespace, engine: Engine | None) -> bool:
    with bar("verify", "shard") as shown:
        report = verify_store(store, shown.update, engine)
    return _say(report, "shards", arguments)


def _say(report: VerifyReport, unit: str, arguments: argparse.Namespace) -> bool:
    if arguments.json:
        print(as_json(report, of=unit, ok=report.ok), flush=True)
    else:
        print(_text(report, unit), flush=True)
    return report.ok


def _text(report: VerifyReport, unit: str) -> str:
    count = len(report.problems)
    verdict = "ok" if report.ok else f"{count} PROBLEM{'S' if count > 1 else ''}"
    figures = f"{report.checked:,} {unit}, {size_of(report.nbytes)}, {report.seconds:.1f} s"
    lines = [f"{report.path}: {verdict} ({figures})"]
    lines += [f"  problem: {problem}" for problem in report.problems]
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines)


def _recorded(dataset: TrajectoryDataset, arguments: argparse.Namespace) -> _Recorded:
    install = "pip install torch rsl-rl-lib"
    with needed(f"the replay check needs torch and the rsl_rl of the checkpoint: {install}"):
        from mosaic_collect.replay.policy import recorded_policy
    return recorded_policy(
        dataset,
        arguments.checkpoint,
        arguments.device,
        None if arguments.runner_cfg is None else read_runner_cfg(arguments.runner_cfg),
        None if arguments.groups is None else dict(arguments.groups),
        arguments.trust_checkpoint,
    )


def _replay(
    dataset: TrajectoryDataset,
    recorded: _Recorded,
    arguments: argparse.Namespace,
    engine: Engine | None,
) -> bool:
    from mosaic_collect.replay.check import replay_check  # torch is needed for this alone

    with bar("replay", "step", dataset.num_steps) as shown:
        report = replay_check(
            *(dataset.blobs, *recorded, arguments.device, arguments.tolerance),
            shown.update,
            engine,
        )
    if arguments.json:
        told = {"of": "rows", "path": arguments.checkpoint, "store": dataset.path, "ok": report.ok}
        print(as_json(report, but=("differences",), **told), flush=True)
    else:
        print(f"{arguments.checkpoint}: {report.verdict} ({report.figures})", flush=True)
    if arguments.plot is not None:
        names = [
            os.path.basename(os.path.normpath(p)) for p in (dataset.path, arguments.checkpoint)
        ]
        title = f"{' replayed by '.join(names)}: {report.verdict}\n{report.figures}"
        plot_replay(report.differences, report.tolerance, title, arguments.plot)
        if not arguments.json:
            print(f"{arguments.plot}: drawn")
    return report.ok
