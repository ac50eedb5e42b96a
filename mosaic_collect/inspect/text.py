"""A summary as text for a terminal."""

from __future__ import annotations

from mosaic_collect.inspect.summary import Summary
from mosaic_collect.text import shown, table


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
