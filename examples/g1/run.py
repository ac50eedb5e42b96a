"""The demo: record a G1 that squats, break off, go on, export, and prove every step of it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, replace

from examples.g1.squat import MJLAB, Options, squat
from mosaic_collect.adapters.rsl_rl.collect import CollectResult
from mosaic_collect.checks import local_path
from mosaic_collect.cli import main
from mosaic_collect.collection.record import Watch
from mosaic_collect.commands.collect import step_bar
from mosaic_collect.errors import InputError
from mosaic_collect.export import ExportReport, export_npy
from mosaic_collect.export.compare import verify_export
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.verify import VerifyReport, verify_store
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.replay.check import replay_check
from mosaic_collect.replay.policy import recorded_policy
from mosaic_collect.replay.report import ReplayReport
from mosaic_collect.simulators import run_collect
from mosaic_collect.text import pace_of, size_of, table

_INTERRUPT_AT = 30
_MARK = ".mosaic-collect-demo"


class _BreakOff(KeyboardInterrupt):
    """What Ctrl-C would be."""


@dataclass(frozen=True)
class _Proof:
    """What the demo found."""

    store: VerifyReport
    export: VerifyReport
    replay: ReplayReport

    @property
    def ok(self) -> bool:
        return self.store.ok and self.export.ok and self.replay.ok


def run_demo(output: str, num_envs: int, device: str | None, sim: str = MJLAB) -> bool:
    """Run all of it, telling on stdout what happens.

    Args:
        output: Folder for store and export; an earlier demo's are replaced.
        num_envs: Environments.
        device: Of the simulation; None: CUDA if there is one.
        sim: The simulator.

    Returns:
        Whether store, export and replay were all proven right.

    Raises:
        InputError: The folder holds something else.
        MosaicCollectError: A step failed.
    """
    output = local_path(output, "output")
    prepare(output, "g1.zarr")
    npy = os.path.join(output, "g1.npy")
    demo = squat(sim, output, num_envs, device, _INTERRUPT_AT)
    store = demo.output
    rate = _collect(demo)
    report = _export(store, npy)
    proof = _prove(store, npy, demo.checkpoint)
    seen = _look(store, output) if sim == MJLAB else []
    _show(store, rate, report, proof, seen)
    return proof.ok


def prepare(output: str, store: str) -> None:
    """Make the folder of a demo, without a store of that name.

    Raises:
        InputError: The folder holds something else.
    """
    mark = os.path.join(output, _MARK)
    if os.path.isdir(output) and os.listdir(output) and not os.path.exists(mark):
        raise InputError(f"{output}: holds something that no demo made; give --output another")
    os.makedirs(output, exist_ok=True)
    shutil.rmtree(os.path.join(output, store), ignore_errors=True)
    with open(mark, "w") as file:
        file.write("Made by mosaic-collect demo, which replaces what is here.\n")


def _collect(demo: Options) -> float:
    """Record, break off once, go on; environment steps a second of both runs."""
    say("1. Record. The first simulation on a machine compiles its kernels, which takes minutes.")
    clock = _Clock()
    try:
        _record(demo, _breaking_off(_INTERRUPT_AT), clock)
    except _BreakOff:
        dataset = TrajectoryDataset(demo.output)
        print(f"   broken off, as by Ctrl-C: {dataset.num_steps} steps committed, all that were "
              f"added; status {dataset.status}")  # fmt: skip
    say("2. Go on where it ended.")
    result = _record(replace(demo, resume=True), None, clock)
    print(f"   {result.completed} trajectories reached their motion's end, {result.fell} fell")
    return clock.rate


def _record(demo: Options, then: Watch | None, clock: _Clock) -> CollectResult:
    with step_bar(demo.max_steps) as bar:

        def watch(writer: TrajectoryWriter) -> None:
            bar(writer)
            clock.tick(writer)
            if then is not None:
                then(writer)

        return run_collect(demo, watch)


def _breaking_off(steps: int) -> Watch:
    def watch(writer: TrajectoryWriter) -> None:
        if writer.num_steps >= steps:
            raise _BreakOff

    return watch


class _Clock:
    """Environment steps a second while steps came in, without making the environments."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs = 0
        self._last: tuple[int, float] | None = None

    def tick(self, writer: TrajectoryWriter) -> None:
        """A step was added."""
        now = time.monotonic()
        if self._last is not None and self._last[0] == id(writer):
            self._seconds += now - self._last[1]
            self._pairs += writer.num_envs
        self._last = (id(writer), now)

    @property
    def rate(self) -> float:
        """Environment steps a second."""
        return self._pairs / self._seconds if self._seconds else 0.0


def _export(store: str, npy: str) -> ExportReport:
    say("3. Export to the .npy that MOSAIC loads.")
    report = export_npy(store, npy)
    pace = pace_of(report.file_nbytes, report.seconds)
    print(f"   {npy}: {report.num_pairs:,} valid pairs, {report.layout}, {pace}")
    return report


def _prove(store: str, npy: str, checkpoint: str) -> _Proof:
    say("4. Prove it.")
    of_store = verify_store(store)
    print(f"   store:  {_verdict(of_store.problems)}: every checksum of {of_store.checked} shards")
    of_export = verify_export(store, npy)
    print(f"   export: {_verdict(of_export.problems)}: compared with the store bit by bit")
    policy, groups = recorded_policy(TrajectoryDataset(store), checkpoint)
    replay = replay_check(store, policy, groups)
    print(f"   replay: {'ok' if replay.ok else f'{replay.rows_off} ROWS OFF'}: {replay.rows:,} "
          "recorded observations given to the checkpoint again")  # fmt: skip
    return _Proof(of_store, of_export, replay)


def _look(store: str, output: str) -> list[str]:
    """Make a report and a picture of the first trajectory that failed; returns their paths."""
    say("5. Look at it: a report, and a fall beside its reference.")
    page, fall = (os.path.join(output, name) for name in ("report.html", "fall.png"))
    commands = [["report", store, "-o", page]]
    failed = TrajectoryDataset(store).where(end="failed")
    if len(failed):
        commands.append(["replay", store, "--trajectory", str(failed[0].id), "-o", fall])
    # What these two need (matplotlib, OpenGL) is not everywhere: an error is printed, no more.
    return [command[-1] for command in commands if main(command) == 0]


def _verdict(problems: tuple[str, ...]) -> str:
    return "ok" if not problems else f"{len(problems)} PROBLEMS, first: {problems[0]}"


def _show(store: str, rate: float, report: ExportReport, proof: _Proof, seen: list[str]) -> None:
    summary = summarize(store)
    dataset = TrajectoryDataset(store)
    raw, stored = summary.raw_nbytes, summary.stored_nbytes
    rows = [
        ("pairs", f"{dataset.state.num_pairs:,} ({dataset.num_valid:,} valid)"),
        ("raw", size_of(raw)),
        ("stored", f"{size_of(stored)}, ratio {raw / max(stored, 1):.2f}"),
        ("recording", f"{rate:,.0f} env-steps/s, physics included"),
        ("export", pace_of(report.file_nbytes, report.seconds)),
        ("replay, mean", f"largest difference {proof.replay.largest_mean:.1e} of 1e-05 allowed"),
        ("replay, sigma", f"largest difference {proof.replay.largest_sigma:.1e}"),
        ("all proven", "yes" if proof.ok else "NO"),
        *(("look at", path) for path in seen),
    ]
    print("\n" + summary_text(summary))
    print("\n" + table(("demo", "result"), rows, right_from=2))
    python = beside("python")
    command = f"{python} -m mosaic_collect"  # an environment of Isaac Lab has no script of ours
    print(
        "\nTry next:\n"
        f"  {command} inspect {report.path}\n"
        f"  {command} replay {store} --trajectory 0 -o clip.mp4\n"
        f"  {command} verify {store} --npy {report.path}\n"
        f"  {command} export {store} small.npy --max-pairs 1000\n"
        f'  {python} -c "from mosaic_collect import TrajectoryDataset as D; '
        f"print(D('{store}')['actions'][0, :3, :5])\""
    )


def beside(name: str) -> str:
    """A program of this environment, as it can be typed here."""
    path = os.path.join(os.path.dirname(sys.executable), name)
    found = os.path.relpath(path) if os.path.exists(path) else name
    return found if not found.startswith("..") else path


def say(text: str) -> None:
    """A step of the demo begins."""
    print(f"\n{text}", flush=True)
