"""What a caller may say of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_collect.errors import InputError
from mosaic_collect.npyfile.layout import COMPACT, GRID

#: Grid if every pair is valid and finite, else compact.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Options:
    """See ``export_npy``."""

    layout: str = AUTO
    fields: Sequence[str] | None = None
    max_pairs: int | None = None
    seed: int = 0
    allow_incomplete: bool = False
    allow_nonfinite: bool = False
    exclude_truncated: bool = False
    exclude_failed: bool = False
    skip_damaged: bool = False


def check_options(options: Options) -> None:
    """Refuse values and combinations that make no sense.

    Raises:
        InputError: Naming the option.
    """
    if options.layout not in (AUTO, GRID, COMPACT):
        raise InputError(f"layout: expected auto, grid or compact, got {options.layout!r}")
    whole = isinstance(options.max_pairs, int) and not isinstance(options.max_pairs, bool)
    if options.max_pairs is not None and not (whole and options.max_pairs >= 1):
        raise InputError(f"max_pairs: expected at least 1, got {options.max_pairs!r}")
    if not isinstance(options.seed, int) or options.seed < 0:
        raise InputError(f"seed: expected a whole number from 0, got {options.seed!r}")
    compact_only = {
        "max_pairs": options.max_pairs is not None,
        "exclude_truncated": options.exclude_truncated,
        "exclude_failed": options.exclude_failed,
        "skip_damaged": options.skip_damaged,
    }
    asked = [name for name, value in compact_only.items() if value]
    if options.layout == GRID and asked:
        raise InputError(f"{', '.join(asked)}: a grid holds every pair; use layout='compact'")
