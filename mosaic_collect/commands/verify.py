"""``mosaic-collect verify``."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.export.compare import verify_export
from mosaic_collect.sizes import size_of
from mosaic_collect.verify import VerifyReport, verify_store

NAME = "verify"
HELP = (
    "Check every checksum of stores and that metadata and files agree; compare an export with "
    "them bit by bit; replay observations through the checkpoint. Exit code 1: something is off."
)
EXAMPLE = "mosaic-collect verify expert.zarr --npy expert.npy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("store", nargs="+", help="the store, or several")
    parser.add_argument(
        "--npy",
        metavar="FILE",
        help="compare this export with the store; one of several with all, in the same order",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="give the recorded observations to this checkpoint and compare what it says",
    )
    parser.add_argument("--device", default="cpu", help="of the checkpoint's network")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the replay")


def run(arguments: argparse.Namespace) -> bool:
    """Verify, printing every problem; True if there is none."""
    # Lists and not generators: each store is looked at, whatever the ones before were like.
    good = all([_verify(store) for store in arguments.store])  # noqa: C419
    if arguments.npy and good:
        with tqdm(unit="B", unit_scale=True, desc="compare", disable=None, leave=False) as bar:
            good = _say(verify_export(arguments.store, arguments.npy, bar.update), "arrays")
    if arguments.checkpoint and good:
        good = all([_replay(store, arguments) for store in arguments.store])  # noqa: C419
    return good


def _verify(store: str) -> bool:
    with tqdm(unit="shard", desc="verify", disable=None, leave=False) as bar:
        report = verify_store(store, bar.update)
    return _say(report, "shards")


def _say(report: VerifyReport, unit: str) -> bool:
    verdict = "ok" if report.ok else f"{len(report.problems)} PROBLEMS"
    figures = f"{report.checked:,} {unit}, {size_of(report.nbytes)}, {report.seconds:.1f} s"
    lines = [f"{report.path}: {verdict} ({figures})"]
    lines += [f"  problem: {problem}" for problem in report.problems]
    lines += [f"  note: {note}" for note in report.notes]
    print("\n".join(lines), flush=True)
    return report.ok


def _replay(store: str, arguments: argparse.Namespace) -> bool:
    # torch and rsl_rl are needed for this alone.
    from mosaic_collect.adapters.recorded import recorded_policy
    from mosaic_collect.replay import replay_check

    dataset = TrajectoryDataset(store)
    policy, groups = recorded_policy(dataset, arguments.checkpoint, arguments.device)
    with tqdm(
        total=dataset.num_steps, unit="step", desc="replay", disable=None, leave=False
    ) as bar:
        report = replay_check(
            store, policy, groups, arguments.device, arguments.tolerance, bar.update
        )
    verdict = "ok" if report.ok else f"{report.rows_off:,} ROWS OFF, first {report.first_off}"
    print(
        f"{arguments.checkpoint}: {verdict} ({report.rows:,} valid rows, largest difference of "
        f"mean {report.largest_mean:.1e}, of sigma {report.largest_sigma:.1e})"
    )
    return report.ok
