"""Arguments that several commands have."""

from __future__ import annotations


def number_or_auto(text: str) -> float | str:
    """``--buffer-mb``; what is neither is the writer's to refuse."""
    try:
        return float(text)
    except ValueError:
        return text
