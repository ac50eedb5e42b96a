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
#: A class of rsl_rl by its name alone, or of it or mjlab by its full name.
_KNOWN = re.compile(r"([A-Z]\w*|(rsl_rl|mjlab)(\.[a-z]\w*)*[.:][A-Z]\w*)", re.ASCII)


def check_class_names(runner_cfg: Mapping[str, Any]) -> None:
    """Refuse a config that names other code than rsl_rl's and mjlab's.

    Raises:
        InputError: Naming each key at fault and what it says.
    """
    foreign = [
        f"{key} names {shown(name)}"
        for key, name in _class_names(runner_cfg, "runner_cfg")
        if name and not (isinstance(name, str) and _KNOWN.fullmatch(name))
    ]
    if foreign:
        raise InputError(
            f"{', '.join(foreign)}: expected a class of rsl_rl or mjlab; if you know and trust "
            "who made it, trust_checkpoint=True runs it all the same"
        )


def _class_names(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == _KEY:
                yield f"{key}.{name}", inner
            yield from _class_names(inner, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _class_names(inner, f"{key}[{place}]")
