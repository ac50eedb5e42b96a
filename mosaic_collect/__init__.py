"""Record what robot policies do, at any size, without losing a step.

The public names are loaded when first used: reading a store needs no torch. ``__init__.pyi`` lists
them, with their modules.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
_IMPORTS = re.compile(r"^from (\S+) import (\([^)]*\)|.*)", re.M)
_HOMES = {
    name: home
    for home, names in _IMPORTS.findall(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    for name in re.findall(r"(\w+) as ", names)
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
