"""A summary as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_collect.inspect.summary import Summary
from mosaic_collect.shown import shown


def summary_text(summary: Summary) -> str:
    """The whole summary, a line an item."""
    lines = [f"{summary.kind} {summary.path}"]
    lines += [f"  {name + ':':14}{shown(value)}" for name, value in summary.facts]
    if summary.fields:
        lines += ["", table(_HEAD, [*_rows(summary), _total(summary)], right_from=2)]
    if summary.metadata:
        lines += ["", "  metadata:"]
        lines += [f"    {shown(key)}: {shown(value)}" for key, value in summary.metadata.items()]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int = 1) -> str:
    """Rows of cells under a head; columns from ``right_from`` on flush right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if i >= right_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  " + "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


_HEAD = ("field", "dtype", "shape", "raw MB", "stored MB", "ratio", "NaN/inf")


def _rows(summary: Summary) -> list[list[str]]:
    return [
        [
            shown(f.name),
            f.dtype,
            " x ".join(f"{n:,}" for n in f.shape),
            _megabytes(f.raw_nbytes),
            _megabytes(f.stored_nbytes),
            _ratio(f.raw_nbytes, f.stored_nbytes),
            "" if f.nonfinite is None else f"{f.nonfinite:,}",
        ]
        for f in summary.fields
    ]


def _total(summary: Summary) -> list[str]:
    raw, stored = summary.raw_nbytes, summary.stored_nbytes
    return ["all", "", "", _megabytes(raw), _megabytes(stored), _ratio(raw, stored), ""]


def _megabytes(nbytes: float) -> str:
    """10^6 bytes, with a decimal where it says something."""
    value = nbytes / 1e6
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _ratio(raw: int, stored: int) -> str:
    return f"{raw / stored:.2f}" if stored else "-"
