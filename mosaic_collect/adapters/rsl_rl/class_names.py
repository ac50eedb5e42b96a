"""Names of code in a training config that came with a store, or lay beside a checkpoint.

rsl_rl evaluates them (2.x, 3.x) or imports what they name (4.x, 5.x), so they are code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.text import shown

_KEY = "class_name"
_MOST_LEVELS = 64
#: A class of rsl_rl by its name alone, or of it or mjlab by its full name.
_KNOWN = re.compile(r"([A-Z]\w*|(rsl_rl|mjlab)(\.[a-z]\w*)*[.:][A-Z]\w*)", re.ASCII)


def check_class_names(runner_cfg: Mapping[str, Any]) -> None:
    """Refuse a config that names other code than rsl_rl's and mjlab's.

    Raises:
        InputError: Naming each key at fault and what it says, or it is nested too deeply.
    """
    foreign = [
        f"{key} names {shown(name)}"
        for key, name in _class_names(runner_cfg)
        if name and not (isinstance(name, str) and _KNOWN.fullmatch(name))
    ]
    if foreign:
        raise InputError(
            f"{', '.join(foreign)}: expected a class of rsl_rl or mjlab; if you know and trust "
            "who made it, trust_checkpoint=True runs it all the same"
        )


def _class_names(runner_cfg: Any) -> Iterator[tuple[str, Any]]:
    """Keys and names, each value looked at once: a few lines of YAML can say one very often."""
    seen: set[int] = set()
    rest = [("runner_cfg", runner_cfg, 0)]
    while rest:
        key, value, depth = rest.pop()
        if key.endswith(f".{_KEY}"):
            yield key, value
        if not isinstance(value, (Mapping, list, tuple)) or id(value) in seen:
            continue
        if depth > _MOST_LEVELS:
            raise InputError(f"runner_cfg: expected at most {_MOST_LEVELS} levels, got more")
        seen.add(id(value))
        named = isinstance(value, Mapping)
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        rest += [(f"{key}.{k}" if named else f"{key}[{k}]", v, depth + 1) for k, v in pairs]
