"""Interrupts that fall before the n-th instruction of the caller's thread in the writer's modules.

Real signals come at fewer places: between some instructions, and not in a thread of our own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mosaic_collect

PACKAGE = Path(mosaic_collect.__file__).parent
#: The writer's side of the package: files, and folders with all that lies below them.
WRITERS_SIDE = ("recording",)
#: What below those folders no interrupt has to fall in, and why.
UNREACHED = {
    "recording/encoder.py": "runs in threads, where no interrupt comes",
    "recording/process.py": "runs in a thread and in a process of its own, where none comes either",
    "recording/cuda.py": "needs a device",
    "recording/signals.py": "makes interrupts of signals, and has nothing of a writer in hand",
}


def below(*entries: str) -> set[str]:
    """Paths of all modules that these files and folders of the package are or hold."""
    found = [PACKAGE / e for e in entries]
    return {str(p) for e in found for p in (e.rglob("*.py") if e.is_dir() else [e])}


TRACED = frozenset(below(*WRITERS_SIDE))
#: Files that interrupts fell in, and how many did.
HIT: Counter[str] = Counter()


def missed() -> list[str]:
    """Files of the writer's side that no interrupt fell in, but for those excused."""
    excused = below(*UNREACHED) | set(HIT)
    # An __init__ is over when a writer can be made.
    left = {p for p in TRACED - excused if not p.endswith("__init__.py")}
    return sorted(str(Path(p).relative_to(PACKAGE)) for p in left)


class Interrupter:
    """Raises ``KeyboardInterrupt`` once, at the given instruction; counts until then."""

    def __init__(self, at: int, files: Collection[str] = TRACED) -> None:
        self.at, self.count, self.files = at, 0, files

    def __enter__(self) -> Interrupter:
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                HIT[frame.f_code.co_filename] += 1
                raise KeyboardInterrupt
        return self._step
