"""Figures of several contenders: measured in turns, shown as Markdown tables, written as JSON.

A figure is a number by the name of its column, such as ``{"raw MB/s": 340.0}``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Figures = dict[str, float]


def in_turns(
    rounds: int, names: Iterable[Any], run: Callable[..., Figures | None], *more: Any
) -> dict[Any, list[Figures]]:
    """Call ``run(name, *more)`` for one contender after the other, so that noise falls upon all.

    A contender that gives None cannot be run, and is left out.
    """
    runs: dict[Any, list[Figures]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, figures in runs.items():
            found = run(name, *more)
            figures += [] if found is None else [found]
    return {name: figures for name, figures in runs.items() if figures}


def medians(runs: Iterable[Figures]) -> Figures:
    """Per figure, the median over the runs."""
    runs = list(runs)
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def show_medians(
    title: str,
    runs: Mapping[Any, list[Figures]],
    main: str,
    row: Callable[[Any, Figures], dict[str, Any]] = lambda name, middle: {"what": name, **middle},
) -> dict[str, Any]:
    """Print a table of medians, and return all figures for programs.

    Args:
        title: Heading of the table.
        runs: Figures per contender and run; None is the name of the one that stands alone.
        main: Figure whose spread is shown: (largest - smallest) / median.
        row: Makes a row of a contender's name and medians.
    """
    rows = []
    for name, figures in runs.items():
        middle, values = medians(figures), [one[main] for one in figures]
        spread = (max(values) - min(values)) / middle[main] if middle[main] else 0.0
        rows.append({**row(name, middle), "spread": f"{spread:.0%}"})
    show(title, rows)
    return {name or "alone": {"runs": f, "median": medians(f)} for name, f in runs.items()}


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a Markdown table, whose columns are all that a row has."""
    if not rows:
        print(f"\n### {title}: nothing\n", flush=True)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(n)) for n in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print(f"\n### {title}\n\n" + "\n".join(lines) + "\n", flush=True)


def machine() -> dict[str, Any]:
    """What was measured on, without names."""
    return {
        "processors": os.cpu_count(),
        "model": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def write_json(path: str, results: dict[str, Any]) -> None:
    """All figures of all subcommands that ran."""
    with open(path, "w") as file:
        json.dump({"machine": machine(), **results}, file, indent=1)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.machine()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)
