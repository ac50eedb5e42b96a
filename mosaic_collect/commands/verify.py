"""``mosaic-collect verify``."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from mosaic_collect.adapters.rsl_rl.runner_cfg import read_runner_cfg
from mosaic_collect.checks import local_path, needed
from mosaic_collect.commands.shared import (
    ENGINE,
    File,
    Json,
    Stores,
    answer,
    bar,
    engine_of,
    engine_options,
)
from mosaic_collect.errors import InputError, StoreError
from mosaic_collect.export.compare import verify_export
from mosaic_collect.look.canvas import check_picture
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.store_set import StoreSet
from mosaic_collect.reading.verify import VerifyReport, verify_store
from mosaic_collect.replay.report import TOLERANCE, check_tolerance, plot_replay
from mosaic_collect.store.ranks import Place
from mosaic_collect.text import size_of

#: The checkpoint as a store's policy, and its groups.
_Recorded = tuple[Any, Any]


def _group(text: str) -> tuple[str, int | tuple[int, ...]]:
    name, _, row = text.partition("=")
    axes = row.split("x")
    if not name or not all(axis.isdecimal() and int(axis) for axis in axes):
        raise argparse.ArgumentTypeError(f"expected NAME=WIDTH, such as policy=154, got {text!r}")
    return name, tuple(map(int, axes)) if len(axes) > 1 else int(row)


@dataclass(frozen=True, kw_only=True)
class _ReplayOptions:
    """The options of a replay through a checkpoint.

    Attributes:
        checkpoint: rsl_rl checkpoint that recorded the store. It is given every observation of a
            valid row again, and must return the recorded mean and sigma. This needs the rsl_rl
            generation that wrote the checkpoint.
        trust_checkpoint: Let code run that the checkpoint holds, or that the training config names
            beyond rsl_rl and mjlab; otherwise such checkpoints are refused.
        tolerance: Largest absolute difference that is allowed, in units of the actions. On the
            hardware that recorded there is usually none. Other float32 kernels differ by about 2e-6
            of a row's largest value, TF32 by about 2e-3. If the relative difference in the report
            is of that size, raise the tolerance or use the --device that recorded.
        device: Device of the network, cpu or cuda:0.
        runner_cfg: Training config, .json or .yaml, such as params/agent.yaml next to the
            checkpoint (default: the one in the store).
        groups: Observation groups that make up the recorded observations, in order, with their
            widths; groups with a field of their own with all axes, such as camera=3x32x32 (default:
            the groups in the store, or one group as wide as the observations).
        plot: Picture of the differences over the steps, .png, .svg or .pdf.
    """

    checkpoint: File = None
    trust_checkpoint: bool = False
    tolerance: float = TOLERANCE
    device: str = "cpu"
    runner_cfg: File = None
    groups: Annotated[Sequence[Any] | None, {"type": _group, "metavar": "NAME=WIDTH"}] = None
    plot: File = None

    def check(self, stores: Sequence[str]) -> None:
        """Refuse what would be wrong only after hours."""
        if self.checkpoint is None:
            given = [n for n in ("plot", "runner_cfg", "groups") if getattr(self, n) is not None]
            if given:
                raise InputError(f"{', '.join(given)}: expected --checkpoint FILE beside it")
        check_tolerance(self.tolerance)
        if self.runner_cfg is not None:
            read_runner_cfg(self.runner_cfg)
        if self.plot is not None:
            check_picture(self.plot)
            if len(_parts(stores)) > 1:
                raise InputError("plot: expected one store, for each would replace the last one's")

    def policy(self, dataset: TrajectoryDataset) -> _Recorded:
        """Load the checkpoint into the network of a store."""
        install = "pip install torch rsl-rl-lib"
        with needed(f"the replay check needs torch and the rsl_rl of the checkpoint: {install}"):
            from mosaic_collect.replay.policy import recorded_policy
        return recorded_policy(
            dataset,
            str(self.checkpoint),
            self.device,
            None if self.runner_cfg is None else read_runner_cfg(self.runner_cfg),
            None if self.groups is None else dict(self.groups),
            self.trust_checkpoint,
        )

    def run(
        self, dataset: TrajectoryDataset, recorded: _Recorded, json: bool, engine: Engine | None
    ) -> bool:
        """Replay a store, print the differences and draw them; True if there are none."""
        from mosaic_collect.replay.check import replay_check  # torch is needed for this alone

        with bar("replay", " steps", dataset.num_steps) as progress:
            report = replay_check(
                *(dataset.blobs, *recorded, self.device, self.tolerance), progress.update, engine
            )
        answer(
            json,
            report,
            f"{self.checkpoint}: {report.verdict} ({report.figures})",
            but=("steps",),
            of="rows",
            path=self.checkpoint,
            store=dataset.path,
            ok=report.ok,
        )
        if self.plot is not None:
            paths = (dataset.path, str(self.checkpoint))
            names = [os.path.basename(os.path.normpath(path)) for path in paths]
            title = f"{' replayed by '.join(names)}: {report.verdict}\n{report.figures}"
            plot_replay(report, title, self.plot)
            if not json:
                print(f"{self.plot}: drawn")
        return report.ok


def run_verify(
    store: Stores,
    *,
    npy: File = None,
    json: Json = False,
    **options: Annotated[
        Any, ENGINE, {"of": _ReplayOptions, "group": "replay through the checkpoint"}
    ],
) -> bool:
    """Check stores, exports and recorded actions for damage and differences.

    Checks every checksum, and that metadata and files agree; compares an export with its stores bit
    by bit; replays the recorded observations through the checkpoint. Exit code 1: a check failed.

    Args:
        store: Store, multi-rank dataset or pattern.
        npy: Export to compare with the store; an export of several stores is compared with all of
            them, in the same order.

    Example:
        mosaic-collect verify expert.zarr --npy expert.npy --checkpoint model.pt --plot replay.png
    """
    processes = engine_options(options)
    replay, first = _ReplayOptions(**options), None
    replay.check(store)
    if npy is not None:
        open(local_path(npy, "npy"), "rb").close()
    if replay.checkpoint is not None:  # before all work
        with contextlib.suppress(StoreError):  # which verifying it reports
            first = replay.policy(_parts(store)[0])
    good = True
    with engine_of(**processes) as engine:
        for path in store:  # whatever the ones before were like
            with bar("verify", " shards") as progress:
                checked = verify_store(path, progress.update, engine)
            good &= _say(checked, "shards", json)
        if npy and good:
            with bar("compare") as progress:
                report = verify_export(store, npy, progress.update, engine)
            good = _say(report, "arrays", json)
        if replay.checkpoint and good:
            for part in _parts(store):
                good &= replay.run(part, first or replay.policy(part), json, engine)
                first = None
    return good


def _parts(stores: Sequence[str]) -> list[TrajectoryDataset]:
    """The stores one by one, those of a folder of ranks, too."""
    views = StoreSet.open(Place.of(stores, "store")).with_steps()
    return [TrajectoryDataset(view.blobs) for view in views]


def _say(report: VerifyReport, unit: str, json: bool) -> bool:
    count = len(report.problems)
    verdict = "ok" if report.ok else f"{count} PROBLEM{'S' if count > 1 else ''}"
    figures = f"{report.checked:,} {unit}, {size_of(report.nbytes)}, {report.seconds:.1f} s"
    answer(
        json,
        report,
        f"{report.path}: {verdict} ({figures})",
        *(f"  problem: {problem}" for problem in report.problems),
        *(f"  note: {note}" for note in report.notes),
        of=unit,
        ok=report.ok,
    )
    return report.ok
