"""Reports of the library for programs: JSON, an object a line."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection
from dataclasses import asdict
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print what is told as JSON, an object a line"
    )


def as_json(report: Any, but: Collection[str] = (), **more: Any) -> str:
    """One line: all fields of a dataclass ``but`` some, and more beside.

    JSON has no NaN and no infinity: where a field is that, its name stands as a text.
    """
    values = {**{k: v for k, v in asdict(report).items() if k not in but}, **more}
    odd = {k: str(v) for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({**values, **odd}, allow_nan=False)
