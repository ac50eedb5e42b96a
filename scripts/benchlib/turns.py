"""Runs of several contenders, one of each in turn, so that noise falls upon all alike."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchlib.measure import medians

Figures = dict[str, float]


def in_turns(
    args: Namespace, names: Iterable[Any], run: Callable[..., Figures | None], *more: Any
) -> dict[Any, list[Figures]]:
    """The figures of ``run(name, *more)``; what gives None cannot be run and is left out."""
    runs: dict[Any, list[Figures]] = {name: [] for name in names}
    for _ in range(args.runs):
        for name, figures in runs.items():
            found = run(name, *more)
            figures += [] if found is None else [found]
    return {name: figures for name, figures in runs.items() if figures}


def with_medians(runs: Mapping[Any, list[Figures]]) -> dict[str, Any]:
    """All of them, for programs; what has no name is alone."""
    return {name or "alone": {"runs": f, "median": medians(f)} for name, f in runs.items()}
