"""Values, sizes and tables as text for messages and terminals."""

from __future__ import annotations

import io
import reprlib
from collections.abc import Sequence
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
    """At most some hundred characters that say what ``value`` is; a text as it is.

    Values may be of unknown origin: no control codes come out.
    """
    text = value if isinstance(value, str) else _Bounded().repr(value)
    if len(text) > _MOST:
        text = text[: _MOST - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def reason(error: BaseException, path: object = None) -> str:
    """Words of an error; a system's error has the file's name in front, unless that is ``path``."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".removesuffix(": ")
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    words = error.strerror[:1].lower() + error.strerror[1:]
    return words if error.filename in (None, path) else f"{error.filename}: {words}"


def any_text(stream: Any) -> None:
    """Let a stream take every text: characters that its terminal cannot show become escapes.

    In the POSIX locale a stream is ASCII with ``surrogateescape``, which encodes no others either.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def size_of(nbytes: float) -> str:
    """Such as ``5.7 kB``, ``4.1 MB`` or ``3.20 GB``: 10^3, 10^6 and 10^9 bytes."""
    if 0 < nbytes < 1e5:
        return f"{nbytes / 1e3:,.1f} kB"
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"


def pace_of(nbytes: float, seconds: float) -> str:
    """Such as ``3.20 GB in 6.4 s (500 MB/s)``."""
    rate = nbytes / 1e6 / max(seconds, 1e-9)
    return f"{size_of(nbytes)} in {seconds:.1f} s ({rate:,.0f} MB/s)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int = 1) -> str:
    """Rows of cells under a head; columns from ``right_from`` on flush right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if i >= right_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  " + "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])
