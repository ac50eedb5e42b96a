"""The part of pickle's language that a dict of arrays and plain values needs, and no more.

A pickle is a small program for a machine with a stack and a memo. This one runs on stand-ins:
naming a class builds nothing, calling one is allowed for the three NumPy functions below, and long
byte strings are passed over with a seek. Every other opcode is an error.

Opcodes: CPython Lib/pickletools.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.standins import Array, Dtype, Extent, Global
from mosaic_collect.text import shown

_MAX_OPCODES = 1_000_000
_MAX_PLAIN_NBYTES = 1 << 20
_MAX_LINE_NBYTES = 1 << 16
_CALLS = ("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype")
_MARK = object()


class Machine:
    """Runs a pickle's opcodes on stand-ins."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value at STOP."""
        for _ in range(_MAX_OPCODES):
            code = self._read(1)
            if code == b".":
                return self._stack.pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise CorruptExportError(f"pickle opcode {code!r} has no place in a dict of arrays")
            action(self)
        raise CorruptExportError("more opcodes than a dict of arrays can have")

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, nbytes: int) -> bytes:
        data = self._file.read(nbytes)
        if len(data) != nbytes:
            raise CorruptExportError("the file is cut off")
        return data

    def number(self, form: str) -> Any:
        """One number of a ``struct`` format."""
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def protocol(self) -> None:
        """Refuse what ``np.load`` would."""
        if not 2 <= self.number("<B") <= 5:
            raise CorruptExportError("an unknown pickle protocol")

    def line(self) -> str:
        """A text line."""
        data = self._file.readline(_MAX_LINE_NBYTES)
        if not data.endswith(b"\n"):
            raise CorruptExportError("a name is cut off")
        return data[:-1].decode("ascii")

    def text(self, form: str) -> None:
        """Push a short text."""
        self.push(self._short(self.number(form)).decode("utf-8"))

    def data(self, form: str) -> None:
        """Push a byte string, as a place in the file: nobody but an array's values is one."""
        nbytes, offset = self.number(form), self._file.tell()
        if nbytes > self._size - offset:
            raise CorruptExportError("the file is cut off within an array")
        self._file.seek(nbytes, os.SEEK_CUR)
        self.push(Extent(offset, nbytes))

    def long(self, form: str) -> None:
        """Push a big whole number."""
        self.push(int.from_bytes(self._short(self.number(form)), "little", signed=True))

    def _short(self, nbytes: int) -> bytes:
        if not 0 <= nbytes <= _MAX_PLAIN_NBYTES:
            raise CorruptExportError(f"a plain value of {nbytes} bytes")
        return self._read(nbytes)

    def bytes_of(self, extent: Any) -> bytes:
        """A short byte string's content."""
        if not isinstance(extent, Extent):
            raise CorruptExportError("expected bytes")
        here = self._file.tell()
        self._file.seek(extent.offset)
        data = self._short(extent.nbytes)
        self._file.seek(here)
        return data

    # -- stack and memo --------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        """Push a value."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Pop a value."""
        return self._stack.pop()

    def since_mark(self) -> list[Any]:
        """Pop all values above the last mark, and the mark."""
        values: list[Any] = []
        while self._stack:
            if (value := self._stack.pop()) is _MARK:
                return values[::-1]
            values.append(value)
        raise CorruptExportError("a mark is missing")

    def put(self, key: int | None) -> None:
        """Remember the top value."""
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def get(self, key: int) -> None:
        """Push a remembered value."""
        self.push(self._memo[key])

    def extend(self, values: list[Any]) -> None:
        """Append to the list on top."""
        target = self._stack[-1]
        if not isinstance(target, list):
            raise CorruptExportError("expected a list")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        """Set items of the dict on top."""
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise CorruptExportError("expected a dict and pairs")
        keys = values[::2]
        # Hashing a deeply nested tuple overflows the stack of C.
        if not all(isinstance(key, (str, int, float, type(None))) for key in keys):
            raise CorruptExportError("a key that is neither text nor number")
        target.update(zip(keys, values[1::2], strict=True))

    def tuple_of(self, count: int) -> None:
        """Push a tuple of the top values."""
        if len(self._stack) < count:
            raise CorruptExportError("values are missing")
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self.push(values)

    # -- what would run code ---------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        """Push a name, without looking it up."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CorruptExportError("a name that is no text")
        self.push(Global(module, name))

    def call(self) -> None:
        """Stand in for the three calls that arrays and NumPy numbers are made by."""
        arguments, function = self.pop(), self.pop()
        called = function.plain if isinstance(function, Global) else shown(function)
        if not isinstance(arguments, tuple) or called not in _CALLS:
            needless = "which no dict of arrays needs"
            raise CorruptExportError(f"it would call {shown(called)}, {needless}")
        if called == "numpy.core.multiarray._reconstruct":
            self._check_reconstruct(*arguments)
            self.push(Array())
        elif called == "numpy.dtype":
            self.push(Dtype(*arguments))
        else:
            dtype, value = arguments
            self.push(np.frombuffer(self.bytes_of(value), dtype.resolve())[0].item())

    def _check_reconstruct(self, kind: Any, shape: Any, code: Any) -> None:
        named = isinstance(kind, Global) and kind.plain == "numpy.ndarray"
        if not named or shape != (0,) or self.bytes_of(code) != b"b":
            raise CorruptExportError("an array is not made as NumPy makes one")

    def build(self) -> None:
        """Give the array or dtype on top its state."""
        state, target = self.pop(), self._stack[-1]
        if not isinstance(state, tuple) or not isinstance(target, (Array, Dtype)):
            raise CorruptExportError("state for something that is no array")
        target.build(*state)


def _push(value: Any) -> Callable[[Machine], None]:
    """An action that pushes a fresh ``value()``."""
    return lambda m: m.push(value())


_ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.protocol(),
    b"\x95": lambda m: m.number("<Q"),  # FRAME
    b"(": lambda m: m.push(_MARK),
    b"\x94": lambda m: m.put(None),  # MEMOIZE
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"N": _push(lambda: None),
    b"\x88": _push(lambda: True),
    b"\x89": _push(lambda: False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.long("<B"),
    b"\x8b": lambda m: m.long("<i"),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8c": lambda m: m.text("<B"),
    b"X": lambda m: m.text("<I"),
    b"\x8d": lambda m: m.text("<Q"),
    b"C": lambda m: m.data("<B"),
    b"B": lambda m: m.data("<I"),
    b"\x8e": lambda m: m.data("<Q"),
    b")": _push(tuple),
    b"]": _push(list),
    b"}": _push(dict),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b"s": lambda m: m.update([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.update(m.since_mark()),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.name(*[m.pop(), m.pop()][::-1]),  # STACK_GLOBAL
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
}
