"""What a caller may say of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mosaic_collect.checks import whole
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


def checked(options: Options) -> Options:
    """The options, with Python's own numbers, if their values and combinations make sense.

    Raises:
        InputError: Naming the option.
    """
    if options.layout not in (AUTO, GRID, COMPACT):
        raise InputError(f"layout: expected auto, grid or compact, got {options.layout!r}")
    most = options.max_pairs
    max_pairs = None if most is None else whole(most, "max_pairs", 1)
    seed = whole(options.seed, "seed", 0)
    compact_only = {
        "max_pairs": options.max_pairs is not None,
        "exclude_truncated": options.exclude_truncated,
        "exclude_failed": options.exclude_failed,
        "skip_damaged": options.skip_damaged,
    }
    asked = [name for name, value in compact_only.items() if value]
    if options.layout == GRID and asked:
        raise InputError(f"{', '.join(asked)}: a grid holds every pair; use layout='compact'")
    return replace(options, max_pairs=max_pairs, seed=seed)
