"""One page of a store: what to know first, then pictures and tables. It needs no other file."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np

from mosaic_collect import __version__
from mosaic_collect.checks import needed
from mosaic_collect.look.canvas import DARK, LIGHT, inline_svg
from mosaic_collect.look.charts import END_WORDS
from mosaic_collect.look.findings import Finding, find
from mosaic_collect.look.motions import MOTION_HEAD, motion_name, motion_rows, worst_trajectories
from mosaic_collect.look.pictures import Pictures
from mosaic_collect.look.statistics import HEAD, StoreStatistics, term_rows, value_rows
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import FIELD_HEAD, Summary, field_rows, store_summary
from mosaic_collect.reading.trajectories import ENDS, Trajectories
from mosaic_collect.store.parsing import object_in
from mosaic_collect.text import shown, size_of

END_HEAD = ("end", "trajectories", "shortest", "25 %", "median", "75 %", "longest", "valid pairs")
FEATURE_HEAD = ("feature", *HEAD[2:])
WORST_HEAD = ("trajectory", "motion", "environment", "first step", "steps", "to render it")
MOST_MOTIONS, MOST_FEATURES, MOST_WORST = 200, 2000, 10
_TEMPLATE = "report.html.jinja"
#: Title, head, rows, number of columns of words, and a note below.
_Table: TypeAlias = tuple[str, Sequence[str], list[list[str]], int, str]
_QUIET = ("terms", "pace")  # metadata that pictures and tables show better


def report_page(
    dataset: TrajectoryDataset,
    statistics: StoreStatistics,
    trajectory: int | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
    findings: Sequence[Finding] | None = None,
    strips: Mapping[int, bytes] | None = None,
) -> str:
    """Render the page as HTML.

    Args:
        dataset: The store; what is written while the page is made is not in it.
        statistics: Statistics of the store's fields.
        trajectory: Id of the trajectory whose curves are drawn; None: a long one that ended.
        checks: Objects that ``mosaic-collect verify --json`` printed about it.
        findings: Findings of ``find``, if they are there already.
        strips: Rendered trajectories by their ids, as JPEG.

    Raises:
        InputError: No such trajectory.
        MissingDependencyError: matplotlib or jinja2 is not installed.
        CorruptStoreError: A damaged chunk.
    """
    template, summary, table = _template(), store_summary(dataset), dataset.trajectories
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return str(
        template.render(
            name=shown(os.path.basename(dataset.path)),
            address=shown(dataset.path),
            origin=_origin(dataset),
            light=LIGHT.css(),
            dark=DARK.css(),
            facts=_facts(summary, table),
            findings=find(dataset, statistics, checks) if findings is None else findings,
            pictures=_pictures(Pictures(dataset, lambda: statistics, trajectory)),
            worst=(WORST_HEAD, worst_rows(dataset)),
            strips={
                f"Trajectory {number}: {dataset.trajectory(number).end}": (
                    f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
                )
                for number, data in (strips or {}).items()
            },
            tables=list(_tables(dataset, statistics, summary)),
            features=_features(statistics),
            told=[(shown(k), shown(v)) for k, v in dataset.metadata.items() if k not in _QUIET],
            footer=f"Made by mosaic_collect {__version__}, {now}. It asks nothing of any network.",
        )
    )


def _template() -> Any:
    with needed("a report needs jinja2: pip install 'mosaic-collect[report]'"):
        import jinja2
    text = resources.files("mosaic_collect.look").joinpath(_TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text)


def _pictures(pictures: Pictures) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "short": name.removeprefix("bands-").replace("_", " ").capitalize(),
            "title": title,
            "svg": inline_svg(pictures.draw(name), title, f"svg-{name}"),
        }
        for name, title in pictures.names.items()
    ]


def _facts(summary: Summary, table: Trajectories) -> tuple[tuple[str, str, str], ...]:
    """Name, value, and what else there is to it."""
    words, stored, runs = dict(summary.facts), summary.stored_nbytes, summary.figures["runs"]
    steps, _, envs = words["steps"].partition(" ")
    pairs, _, valid = words["pairs"].partition(", of them ")
    count, _, ends = words["trajectories"].partition(": ")
    if idle := int((table.columns["num_valid"] == 0).sum()):
        ends += f", {idle:,} without a valid row"
    return (
        ("status", summary.figures["status"], f"{len(runs)} run{'s' if len(runs) != 1 else ''}"),
        ("pairs", pairs, valid),
        ("steps", steps, envs),
        ("trajectories", count, ends),
        ("on disk", size_of(stored), f"ratio {summary.raw_nbytes / stored:.2f}" if stored else ""),
    )


def _origin(dataset: TrajectoryDataset) -> str:
    told = dataset.metadata
    words = [shown(told[key]) for key in ("simulator", "task") if key in told]
    checkpoint = object_in(told, "checkpoint").get("path")
    if isinstance(checkpoint, str):
        words.append(shown(os.path.basename(checkpoint)))
    return ", ".join(words)


def _tables(
    dataset: TrajectoryDataset, statistics: StoreStatistics, summary: Summary
) -> Iterator[_Table]:
    """Tables of motions, fields, values and ends."""
    if motions := motion_rows(dataset):
        more = _more(len(motions), MOST_MOTIONS)
        yield f"Motions{more}", MOTION_HEAD, motions[:MOST_MOTIONS], 1, ""
    yield "Fields", FIELD_HEAD, field_rows(summary), 2, ""
    read, valid = statistics.num_read, statistics.num_valid
    spread = f"{read:,} of {valid:,} valid pairs, spread over the run"
    title = f"Values, over {f'all {valid:,} valid pairs' if read == valid else spread}"
    rows, off = statistics.sample_rows, statistics.rank_error
    exact = f"; their ranks are within {off:.1%} of those of the pairs read" if off else ""
    note = "Of several features: the mean of means, the root of the mean variance, the outermost "
    note += f"least and greatest. Quantiles are of {rows:,} pairs drawn uniformly{exact}."
    values = [row for f in statistics.fields.values() for row in term_rows(f)]
    yield title, HEAD, values, 1, note
    ends = end_rows(dataset.trajectories)
    yield "Trajectories by how they ended", END_HEAD, ends, 1, ""


def _features(statistics: StoreStatistics) -> _Table:
    """The table of the first ``MOST_FEATURES`` features of fields with axes."""
    fields = [f for f in statistics.fields.values() if f.shape]
    columns = ((field, (slice(i, i + 1) for i in range(len(field.names)))) for field in fields)
    every = chain.from_iterable(value_rows(field, field.names, each) for field, each in columns)
    rows = [[name, *cells] for name, _dim, *cells in islice(every, MOST_FEATURES)]
    more = _more(sum(len(field.names) for field in fields), MOST_FEATURES)
    return f"Features{more}", FEATURE_HEAD, rows, 1, ""


def _more(count: int, most: int) -> str:
    return f": the first {most:,} of {count:,}" if count > most else ""


def worst_rows(dataset: TrajectoryDataset) -> list[list[str]]:
    """Rows under ``WORST_HEAD`` of the failed trajectories that are worth a look."""
    store, rows = shlex.quote(dataset.path), []
    for number in worst_trajectories(dataset, MOST_WORST):
        one = dataset.trajectory(number)
        motion = "" if one.motion is None else motion_name(dataset, one.motion)
        command = f"mosaic-collect replay {store} --trajectory {number} -o fall-{number}.mp4"
        where = (number, motion, f"{one.env:,}", f"{one.first_step:,}", f"{one.num_steps:,}")
        rows.append([*map(str, where), command])
    return rows


def end_rows(table: Trajectories) -> list[list[str]]:
    """Under ``END_HEAD``, those ends that there are."""
    columns, rows = table.columns, []
    for end in ENDS:
        where = columns["end"] == end
        if where.any():
            lengths = columns["num_steps"][where]
            cells = [len(lengths), *np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1))]
            cells.append(columns["num_valid"][where].sum())
            rows.append([END_WORDS[end], *(f"{v:,.0f}" for v in cells)])
    return rows
