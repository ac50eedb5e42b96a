"""What the tests of this folder counted; shown at the end of a test run."""

from __future__ import annotations

from collections import Counter

FIGURES: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Add to a figure."""
    FIGURES[what] += number
