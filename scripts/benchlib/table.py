"""Results as aligned Markdown tables and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the rows; the first row names the columns."""
    names = list(rows[0])
    cells = [names, *([_text(row.get(n)) for n in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    print(f"\n### {title}\n\n{table(rows)}\n" if rows else f"\n### {title}: nothing\n", flush=True)


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
