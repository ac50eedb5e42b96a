"""Values of unknown origin as text for messages and terminals: short, and without control codes."""

from __future__ import annotations

import reprlib
from typing import Any

_MOST = 200


class _Bounded(reprlib.Repr):
    """Bounded in depth and breadth, so that values that hold themselves end, too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = 6
        self.maxstring = self.maxother = _MOST

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write whole numbers of very many digits."""
        return repr(x) if x.bit_length() < 256 else f"a number of {x.bit_length()} bits"


def shown(value: Any) -> str:
    """At most some hundred characters that say what ``value`` is; a text as it is."""
    text = value if isinstance(value, str) else _Bounded().repr(value)
    if len(text) > _MOST:
        text = text[: _MOST - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
