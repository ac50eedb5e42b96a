"""The commands ``inspect``, ``stats``, ``plot``, ``report``, ``replay`` and ``watch``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from json import dumps, loads
from typing import Annotated, Any, Literal

from mosaic_collect.checks import local_path, output_path
from mosaic_collect.commands.shared import (
    ENGINE,
    File,
    Json,
    Paths,
    Stores,
    as_json,
    bar,
    dataset_of,
    engine_of,
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

_SHORT = {"flags": ("-o",)}
_PAIRS = {"name": "pairs"}


@dataclass(frozen=True, kw_only=True)
class _Charts:
    """Options of commands that draw charts.

    Attributes:
        trajectory: Id of the trajectory whose curves are drawn (default: a typical one).
        max_pairs: Number of pairs that figures and charts are made of, spread evenly over the
            store; 0 takes all.
    """

    trajectory: Annotated[int | None, {"metavar": "ID"}] = None
    max_pairs: Annotated[int, _PAIRS] = 1_000_000


_CHARTS = {"of": _Charts}


def run_inspect(
    path: Paths,
    *,
    metadata: bool = False,
    json: Json = False,
    **processes: Annotated[Any, ENGINE],
) -> None:
    """Show the contents of a store or an exported .npy file, without loading or unpickling it.

    Args:
        path: Store, multi-rank dataset, pattern or .npy file.
        metadata: Show all metadata, not only short values.

    Example:
        mosaic-collect inspect expert.zarr
    """
    with engine_of(**processes) as engine:
        found = [summarize(one, engine) for one in path]
    if json:
        print("\n".join(_json(summary) for summary in found))
    else:
        print("\n\n".join(summary_text(summary, metadata) for summary in found))


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


def run_stats(
    store: Stores,
    *,
    output: Annotated[File, _SHORT] = None,
    fields: Sequence[str] | None = None,
    max_pairs: Annotated[int, _PAIRS] = 0,
    json: Json = False,
    **processes: Annotated[Any, ENGINE],
) -> None:
    """Measure every feature over the valid pairs.

    Mean, standard deviation, range, quantiles, shares of NaN and infinity, constant and dead
    features, and what rsl_rl's normalizer takes. One pass in bounded memory.

    Args:
        output: JSON file to write all figures to (default: none).
        fields: Fields to measure (default: all).
        max_pairs: Number of pairs to measure, spread evenly over the store; 0 measures all.

    Example:
        mosaic-collect stats expert.zarr
    """
    dataset = dataset_of(store)
    target = None if output is None else output_path(output, "output")
    with engine_of(**processes) as engine:
        found = _measure(dataset, max_pairs, fields, engine, over_time=False)
    if json or target is not None:
        figures = dumps(found.to_json(), allow_nan=False)
    if target is not None:
        write_target(target, figures.encode())
    print(figures if json else statistics_text(found))
    if target is not None and not json:
        print(f"{target}: written")


def _measure(
    dataset: TrajectoryDataset,
    max_pairs: int,
    fields: Sequence[str] | None = None,
    engine: Engine | None = None,
    over_time: bool = True,
) -> StoreStatistics:
    """Statistics of some pairs, or of all for 0, behind a progress bar."""
    most = max_pairs or None
    with bar("stats", " pairs", part_pairs(dataset, most)) as progress:
        return store_statistics(
            dataset, fields, most, progress.update, engine=engine, over_time=over_time
        )


def run_plot(
    store: Stores,
    *,
    only: Annotated[Sequence[str] | None, {"metavar": "CHART"}] = None,
    output: Annotated[str | None, _SHORT, {"metavar": "STEM"}] = None,
    format: str = "png",  # noqa: A002  the option's name
    theme: Literal["light", "dark"] = "light",
    **charts: Annotated[Any, _CHARTS],
) -> None:
    """Draw charts of a store: environments, motions, observations, actions, one trajectory, speed.

    Args:
        only: Charts to draw: timeline, lengths, motions, environments, actions, sigma, bands-FIELD,
            images-FIELD, trajectory, pace (default: all).
        output: Beginning of the file names STEM.CHART.png (default: the store's path without
            .zarr).
        format: File format: png, svg, pdf or another one of matplotlib's.
        theme: Colors of the charts.

    Example:
        mosaic-collect plot expert.zarr --only timeline lengths
    """
    stem = output or store_stem(store)
    check_picture(f"{stem}.{format}")
    dataset, how = dataset_of(store), _Charts(**charts)
    statistics = partial(_measure, dataset, how.max_pairs)
    pictures = Pictures(dataset, statistics, how.trajectory, THEMES[theme])
    for name in only or pictures.names:
        path = f"{stem}.{name}.{format}"
        save(pictures.draw(name), path)
        print(f"{path}: drawn", flush=True)


def run_report(
    store: Stores,
    *,
    output: Annotated[File, _SHORT] = None,
    render: int = 0,
    json: File = None,
    checks: File = None,
    **charts: Annotated[Any, _CHARTS],
) -> None:
    """Write one self-contained HTML page about a store: findings first, then charts and tables.

    Args:
        output: The HTML file (default: STORE.report.html).
        render: Number of failed trajectories to render into the page, the worst first. It needs a
            store of mjlab with --record-states.
        json: JSON file to write the findings to, for programs (default: none).
        checks: Output of 'mosaic-collect verify --json' about this store; failures are shown first.

    Example:
        mosaic-collect report expert.zarr -o report.html
    """
    checked = [] if checks is None else _checks(checks)
    page_path = output_path(output or f"{store_stem(store)}.report.html", "output")
    json_path = None if json is None else output_path(json, "json")
    dataset, how = dataset_of(store), _Charts(**charts)
    statistics = _measure(dataset, how.max_pairs)
    findings = find(dataset, statistics, checked)
    strips = _rendered(dataset, render)
    page = report_page(dataset, statistics, how.trajectory, checked, findings, strips)
    write_target(page_path, page.encode())
    if json_path is not None:
        plain = {"store": dataset.path, "findings": [f.to_json() for f in findings]}
        write_target(json_path, dumps(plain, indent=1).encode())
        print(f"{json_path}: written, {len(findings)} findings")
    print(f"{page_path}: written, {len(page) / 1e6:.1f} MB")


def _rendered(dataset: TrajectoryDataset, count: int) -> dict[int, bytes]:
    """The worst trajectories as pictures."""
    if not count:
        return {}
    from mosaic_collect.film.render import render_strip

    worst, strips = worst_trajectories(dataset, count), {}
    with bar("render", " trajectories", len(worst)) as progress:
        for number in worst:
            strips[number] = render_strip(dataset, number)
            progress.update()
    return strips


def _checks(path: str) -> list[dict[str, Any]]:
    try:
        with open(local_path(path, "checks"), encoding="utf-8") as file:
            found = [loads(line) for line in file if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: expected one JSON object per line: {error}") from error
    if not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{path}: expected one JSON object per line")
    return found


def run_replay(
    store: Stores,
    *,
    trajectory: Annotated[Sequence[int] | None, {"exclusive": "which", "metavar": "ID"}] = None,
    worst: Annotated[int | None, {"exclusive": "which"}] = None,
    output: Annotated[str, _SHORT, {"metavar": "FILE", "required": True}],
    motion: str | None = None,
    model: str | None = None,
) -> None:
    """Render trajectories: the robot beside its reference, in mjlab's scene or with a model.

    Args:
        store: Store, multi-rank dataset or pattern. Stores collected with --record-states hold the
            robot's states.
        trajectory: Ids of the trajectories to render, as listed by the report; several are a grid.
        worst: Number of failed trajectories to render instead, the worst first.
        output: The video, .mp4 or .gif, or a strip of eight pictures, .png.
        motion: File or folder with the motions, if they are no longer where they were recorded.
        model: Model of the robot for MuJoCo, an MJCF file. Stores of Isaac Lab 3 need one (default:
            the scene of the task in mjlab).

    Example:
        mosaic-collect replay expert.zarr --worst 4 -o falls.mp4
    """
    from mosaic_collect.film.render import film

    dataset = dataset_of(store)
    ids = trajectory or worst_trajectories(dataset, worst or 1)
    if not ids:
        raise InputError("trajectory: expected ids, for no trajectory failed")
    with bar("replay", " pictures") as progress:
        made = film(dataset, ids, output, motion, progress.update, model)
    shown_in = f"{' and '.join(made.shown)} at {made.fps:g} steps per second"
    for one in made.trajectories:
        what = f"trajectory {one.id} of environment {one.env}, {one.num_steps} steps, {one.end}"
        print(f"{made.path}: {what}; {shown_in}")
    for note in made.notes:
        print(f"note: {note}")


def run_watch(
    store: Stores,
    *,
    every: Annotated[float, {"metavar": "SECONDS"}] = 5.0,
    steps: int | None = None,
    once: bool = False,
) -> bool:
    """Follow stores while they are recorded, from another terminal.

    Shows steps, rate, time left, disk, stalls and trajectories. Ends when the stores are complete,
    when no writer is at work any more, or by Ctrl-C. Exit code 1: a writer stopped before its store
    was complete.

    Args:
        store: Store, multi-rank dataset or pattern; several are listed below one another.
        every: Seconds between updates.
        steps: Number of steps that the store will have (default: what the collection recorded).
        once: Print one update and exit.

    Example:
        mosaic-collect watch expert.zarr
    """
    if not (math.isfinite(every) and every > 0):
        raise InputError(f"every: expected a number above 0, got {every}")
    dataset = dataset_of(store)
    watchers: dict[str, Watcher] = {}
    lines = 0
    try:
        while True:
            for part in dataset.parts:
                name = store[0] if part is dataset else part.path
                watchers.setdefault(name, Watcher(part, steps))
            looks = {path: watcher.look() for path, watcher in watchers.items()}
            lines = _show(looks, lines)
            dataset.refresh()
            whole = len(looks) >= len(dataset.parts) and not dataset.missing
            if once:
                return True
            if looks and whole and all(look.is_over for look in looks.values()):
                return all(look.is_complete for look in looks.values())
            time.sleep(max(every, 0.1))
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
