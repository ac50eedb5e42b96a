"""The commands ``inspect``, ``stats``, ``plot``, ``report``, ``replay`` and ``watch``."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from mosaic_collect.checks import local_path, output_path
from mosaic_collect.commands.options import shown
from mosaic_collect.commands.shared import (
    WithEngine,
    WithJson,
    WithStores,
    as_json,
    bar,
    store_stem,
)
from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import THEMES, check_picture, save
from mosaic_collect.look.findings import find
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.look.measure import part_pairs, store_statistics
from mosaic_collect.look.motions import worst_trajectories
from mosaic_collect.look.pictures import Pictures
from mosaic_collect.look.report import report_page
from mosaic_collect.look.statistics import StoreStatistics, statistics_text
from mosaic_collect.look.watch import Look, Watcher, look_line, look_lines
from mosaic_collect.npyfile.read import plain_copy
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import Summary, status_words
from mosaic_collect.store.files import write_target

_OUTPUT = {"flags": ("-o",), "metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class Inspect(WithJson, WithEngine):
    """Show the contents of a store or an exported .npy file, without loading or unpickling it.

    Attributes:
        path: Store, multi-rank dataset, pattern or .npy file.
        metadata: Show all metadata, not only short values.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect inspect expert.zarr"

    path: Sequence[str] = field(metadata=shown(positional=True))
    metadata: bool = False

    def run(self) -> bool:
        """Print one summary per path."""
        with self.engine() as engine:
            found = [summarize(path, engine) for path in self.path]
        if self.json:
            print("\n".join(_json(summary) for summary in found))
        else:
            print("\n\n".join(summary_text(summary, self.metadata) for summary in found))
        return True


def _json(summary: Summary) -> str:
    """With figures in place of the facts in words."""
    plain = replace(
        summary,
        # Which a file may have filled with anything.
        figures=plain_copy(summary.figures, summary.path),
        metadata=plain_copy(summary.metadata, summary.path),
    )
    totals = {"raw_nbytes": summary.raw_nbytes, "stored_nbytes": summary.stored_nbytes}
    return as_json(plain, but=("facts",), **totals)


@dataclass(frozen=True, kw_only=True)
class Stats(WithStores, WithJson, WithEngine):
    """Measure every feature over the valid pairs.

    Mean, standard deviation, range, quantiles, shares of NaN and infinity, constant and dead
    features, and what rsl_rl's normalizer takes. One pass in bounded memory.

    Attributes:
        output: JSON file to write all figures to (default: none).
        fields: Fields to measure (default: all).
        max_pairs: Number of pairs to measure, spread evenly over the store; 0 measures all.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect stats expert.zarr"

    output: str | None = field(default=None, metadata=shown(**_OUTPUT))
    fields: Sequence[str] | None = None
    max_pairs: int = field(default=0, metadata=shown(name="pairs"))

    def run(self) -> bool:
        """Measure, print and write."""
        dataset = self.dataset
        output = None if self.output is None else output_path(self.output, "output")
        with self.engine() as engine:
            found = _measure(dataset, self.max_pairs, self.fields, engine)
        if self.json or output is not None:
            figures = json.dumps(found.to_json(), allow_nan=False)
        if output is not None:
            write_target(output, figures.encode())
        print(figures if self.json else statistics_text(found))
        if output is not None and not self.json:
            print(f"{output}: written")
        return True


def _measure(
    dataset: TrajectoryDataset,
    max_pairs: int,
    fields: Sequence[str] | None = None,
    engine: Engine | None = None,
) -> StoreStatistics:
    """Statistics of some pairs, or of all for 0, behind a progress bar."""
    most = max_pairs or None
    with bar("stats", " pairs", part_pairs(dataset, most)) as progress:
        return store_statistics(dataset, fields, most, progress.update, engine=engine)


@dataclass(frozen=True, kw_only=True)
class WithCharts(WithStores):
    """A command that draws charts.

    Attributes:
        trajectory: Id of the trajectory whose curves are drawn (default: a typical one).
        max_pairs: Number of pairs that figures and charts are made of, spread evenly over the
            store; 0 takes all.
    """

    trajectory: int | None = field(default=None, metadata=shown(metavar="ID"))
    max_pairs: int = field(default=1_000_000, metadata=shown(name="pairs"))


@dataclass(frozen=True, kw_only=True)
class Plot(WithCharts):
    """Draw charts of a store: environments, motions, observations, actions, one trajectory, speed.

    Attributes:
        only: Charts to draw: timeline, lengths, motions, environments, actions, sigma, bands-FIELD,
            images-FIELD, trajectory, pace (default: all).
        output: Beginning of the file names STEM.CHART.png (default: the store's path without
            .zarr).
        format: File format: png, svg, pdf or another one of matplotlib's.
        theme: Colors of the charts.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect plot expert.zarr --only timeline lengths"

    only: Sequence[str] | None = field(default=None, metadata=shown(metavar="CHART"))
    output: str | None = field(default=None, metadata=shown(flags=("-o",), metavar="STEM"))
    format: str = "png"
    theme: Literal["light", "dark"] = "light"

    def run(self) -> bool:
        """Draw, and print the files' names."""
        stem = self.output or store_stem(self.store)
        check_picture(f"{stem}.{self.format}")
        dataset = self.dataset
        statistics = partial(_measure, dataset, self.max_pairs)
        pictures = Pictures(dataset, statistics, self.trajectory, THEMES[self.theme])
        for name in self.only or pictures.names:
            path = f"{stem}.{name}.{self.format}"
            save(pictures.draw(name), path)
            print(f"{path}: drawn", flush=True)
        return True


@dataclass(frozen=True, kw_only=True)
class Report(WithCharts):
    """Write one self-contained HTML page about a store: findings first, then charts and tables.

    Attributes:
        output: The HTML file (default: STORE.report.html).
        render: Number of failed trajectories to render into the page, the worst first. It needs a
            store of mjlab with --record-states.
        json: JSON file to write the findings to, for programs (default: none).
        checks: Output of 'mosaic-collect verify --json' about this store; failures are shown first.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect report expert.zarr -o report.html"

    output: str | None = field(default=None, metadata=shown(**_OUTPUT))
    render: int = 0
    json: str | None = field(default=None, metadata=shown(metavar="FILE"))
    checks: str | None = field(default=None, metadata=shown(metavar="FILE"))

    def run(self) -> bool:
        """Write the page, and the findings as JSON."""
        checks = [] if self.checks is None else _checks(self.checks)
        output = output_path(self.output or f"{store_stem(self.store)}.report.html", "output")
        figures = None if self.json is None else output_path(self.json, "json")
        dataset = self.dataset
        statistics = _measure(dataset, self.max_pairs)
        findings = find(dataset, statistics, checks)
        strips = self._render(dataset)
        page = report_page(dataset, statistics, self.trajectory, checks, findings, strips)
        write_target(output, page.encode())
        if figures is not None:
            plain = {"store": dataset.path, "findings": [f.to_json() for f in findings]}
            write_target(figures, json.dumps(plain, indent=1).encode())
            print(f"{figures}: written, {len(findings)} findings")
        print(f"{output}: written, {len(page) / 1e6:.1f} MB")
        return True

    def _render(self, dataset: TrajectoryDataset) -> dict[int, bytes]:
        """The worst trajectories as pictures."""
        if not self.render:
            return {}
        from mosaic_collect.film.render import render_strip

        worst, strips = worst_trajectories(dataset, self.render), {}
        with bar("render", " trajectories", len(worst)) as progress:
            for number in worst:
                strips[number] = render_strip(dataset, number)
                progress.update()
        return strips


def _checks(path: str) -> list[dict[str, Any]]:
    try:
        with open(local_path(path, "checks"), encoding="utf-8") as file:
            found = [json.loads(line) for line in file if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: expected one JSON object per line: {error}") from error
    if not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{path}: expected one JSON object per line")
    return found


@dataclass(frozen=True, kw_only=True)
class Replay(WithStores):
    """Render trajectories: the robot beside its reference, in mjlab's scene or with a model.

    Attributes:
        store: Store, multi-rank dataset or pattern. Stores collected with --record-states hold the
            robot's states.
        trajectory: Ids of the trajectories to render, as listed by the report; several are a grid.
        worst: Number of failed trajectories to render instead, the worst first.
        output: The video, .mp4 or .gif, or a strip of eight pictures, .png.
        motion: File or folder with the motions, if they are no longer where they were recorded.
        model: Model of the robot for MuJoCo, an MJCF file. Stores of Isaac Lab 3 need one (default:
            the scene of the task in mjlab).
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect replay expert.zarr --worst 4 -o falls.mp4"

    trajectory: Sequence[int] | None = field(
        default=None, metadata=shown(exclusive="which", metavar="ID")
    )
    worst: int | None = field(default=None, metadata=shown(exclusive="which"))
    output: str = field(metadata=shown(**_OUTPUT))
    motion: str | None = None
    model: str | None = None

    def run(self) -> bool:
        """Render, and print what the video shows."""
        from mosaic_collect.film.render import film

        dataset = self.dataset
        ids = self.trajectory or worst_trajectories(dataset, self.worst or 1)
        if not ids:
            raise InputError("trajectory: expected ids, for no trajectory failed")
        with bar("replay", " pictures") as progress:
            made = film(dataset, ids, self.output, self.motion, progress.update, self.model)
        shown_in = f"{' and '.join(made.shown)} at {made.fps:g} steps per second"
        for one in made.trajectories:
            what = f"trajectory {one.id} of environment {one.env}, {one.num_steps} steps, {one.end}"
            print(f"{made.path}: {what}; {shown_in}")
        for note in made.notes:
            print(f"note: {note}")
        return True


@dataclass(frozen=True, kw_only=True)
class Watch(WithStores):
    """Follow stores while they are recorded, from another terminal.

    Shows steps, rate, time left, disk, stalls and trajectories. Ends when the stores are complete,
    when no writer is at work any more, or by Ctrl-C. Exit code 1: a writer stopped before its store
    was complete.

    Attributes:
        store: Store, multi-rank dataset or pattern; several are listed below one another.
        every: Seconds between updates.
        steps: Number of steps that the store will have (default: what the collection recorded).
        once: Print one update and exit.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect watch expert.zarr"

    every: float = field(default=5.0, metadata=shown(metavar="SECONDS"))
    steps: int | None = None
    once: bool = False

    def run(self) -> bool:
        """Print updates until all stores are complete."""
        if not (math.isfinite(self.every) and self.every > 0):
            raise InputError(f"every: expected a number above 0, got {self.every}")
        dataset = self.dataset
        watchers: dict[str, Watcher] = {}
        lines = 0
        try:
            while True:
                for part in dataset.parts:
                    name = self.store[0] if part is dataset else part.path
                    watchers.setdefault(name, Watcher(part, self.steps))
                looks = {path: watcher.look() for path, watcher in watchers.items()}
                lines = _show(looks, lines)
                dataset.refresh()
                whole = len(looks) >= len(dataset.parts) and not dataset.missing
                if self.once:
                    return True
                if looks and whole and all(look.is_over for look in looks.values()):
                    return all(look.is_complete for look in looks.values())
                time.sleep(max(self.every, 0.1))
        except KeyboardInterrupt:  # the way out, and no failure
            return True


def _show(looks: dict[str, Look], before: int) -> int:
    """Print looks over the last ones where the terminal can; returns the number of lines."""
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
