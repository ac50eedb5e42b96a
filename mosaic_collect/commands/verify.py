"""``mosaic-collect verify``."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mosaic_collect.adapters.rsl_rl.runner_cfg import read_runner_cfg
from mosaic_collect.checks import local_path, needed
from mosaic_collect.commands.options import shown
from mosaic_collect.commands.shared import STORES, WithEngine, WithJson, bar
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

_FILE = shown(metavar="FILE")


def _group(text: str) -> tuple[str, int | tuple[int, ...]]:
    name, _, row = text.partition("=")
    axes = row.split("x")
    if not name or not all(axis.isdecimal() and int(axis) for axis in axes):
        raise argparse.ArgumentTypeError(f"expected NAME=WIDTH, such as policy=154, got {text!r}")
    return name, tuple(map(int, axes)) if len(axes) > 1 else int(row)


#: The checkpoint as a store's policy, and its groups.
_Recorded = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Verify(WithJson, WithEngine):
    """Check stores, exports and recorded actions for damage and differences.

    Checks every checksum, and that metadata and files agree; compares an export with its stores bit
    by bit; replays the recorded observations through the checkpoint. Exit code 1: a check failed.

    Attributes:
        store: Store, multi-rank dataset or pattern.
        npy: Export to compare with the store; an export of several stores is compared with all of
            them, in the same order.
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

    EXAMPLE: ClassVar[str] = (
        "mosaic-collect verify expert.zarr --npy expert.npy --checkpoint model.pt --plot replay.png"
    )
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "replay through the checkpoint": (
            *("checkpoint", "trust_checkpoint", "tolerance", "device", "runner_cfg"),
            *("groups", "plot"),
        ),
        **WithEngine.GROUPS,
    }

    store: Sequence[str] = field(metadata=STORES)
    npy: str | None = field(default=None, metadata=_FILE)
    checkpoint: str | None = field(default=None, metadata=_FILE)
    trust_checkpoint: bool = False
    tolerance: float = TOLERANCE
    device: str = "cpu"
    runner_cfg: str | None = field(default=None, metadata=_FILE)
    groups: Sequence[Any] | None = field(
        default=None, metadata=shown(type=_group, metavar="NAME=WIDTH")
    )
    plot: str | None = field(default=None, metadata=_FILE)

    def run(self) -> bool:
        """Verify, printing every problem; True if there is none."""
        self._check()
        first = None
        if self.checkpoint is not None:  # before all work
            with contextlib.suppress(StoreError):  # which verifying it reports
                first = self._policy(self._parts()[0])
        # Lists and not generators: each store is checked, whatever the ones before were like.
        with self.engine() as engine:
            good = all([self._verify(store, engine) for store in self.store])  # noqa: C419
            if self.npy and good:
                with bar("compare") as progress:
                    report = verify_export(self.store, self.npy, progress.update, engine)
                good = self._say(report, "arrays")
            if self.checkpoint and good:
                for part in self._parts():
                    good &= self._replay(part, first or self._policy(part), engine)
                    first = None
        return good

    def _check(self) -> None:
        """What would be wrong only after hours, before them."""
        if self.checkpoint is None:
            given = [n for n in ("plot", "runner_cfg", "groups") if getattr(self, n) is not None]
            if given:
                names = ", ".join("--" + name.replace("_", "-") for name in given)
                raise InputError(f"{names}: expected --checkpoint FILE beside it")
        check_tolerance(self.tolerance)
        if self.npy is not None:
            open(local_path(self.npy, "npy"), "rb").close()
        if self.runner_cfg is not None:
            read_runner_cfg(self.runner_cfg)
        if self.plot is not None:
            check_picture(self.plot)
            if len(self._parts()) > 1:
                raise InputError(
                    "--plot: expected one store, for each would replace the last one's"
                )

    def _parts(self) -> list[TrajectoryDataset]:
        """The stores one by one, those of a folder of ranks, too."""
        views = StoreSet.open(Place.of(self.store, "store")).with_steps()
        return [TrajectoryDataset(view.blobs) for view in views]

    def _policy(self, dataset: TrajectoryDataset) -> _Recorded:
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

    def _verify(self, store: str, engine: Engine | None) -> bool:
        with bar("verify", " shards") as progress:
            report = verify_store(store, progress.update, engine)
        return self._say(report, "shards")

    def _say(self, report: VerifyReport, unit: str) -> bool:
        count = len(report.problems)
        verdict = "ok" if report.ok else f"{count} PROBLEM{'S' if count > 1 else ''}"
        figures = f"{report.checked:,} {unit}, {size_of(report.nbytes)}, {report.seconds:.1f} s"
        self.answer(
            report,
            f"{report.path}: {verdict} ({figures})",
            *(f"  problem: {problem}" for problem in report.problems),
            *(f"  note: {note}" for note in report.notes),
            of=unit,
            ok=report.ok,
        )
        return report.ok

    def _replay(
        self, dataset: TrajectoryDataset, recorded: _Recorded, engine: Engine | None
    ) -> bool:
        from mosaic_collect.replay.check import replay_check  # torch is needed for this alone

        with bar("replay", " steps", dataset.num_steps) as progress:
            report = replay_check(
                *(dataset.blobs, *recorded, self.device, self.tolerance),
                progress.update,
                engine,
            )
        self.answer(
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
            if not self.json:
                print(f"{self.plot}: drawn")
        return report.ok
