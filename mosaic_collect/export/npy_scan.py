"""Looking into a pickled ``.npy`` dict without unpickling it and without loading its arrays.

A pickle is a small program. This module runs the part of its language that a dict of arrays and
plain values needs, on stand-ins: naming a class builds nothing, calling one is allowed for the
three NumPy functions below, and long byte strings are passed over with a seek. Everything else is
an error, so a hostile file is refused, never executed. Files written by this package and by
``np.save`` of NumPy 1.x and 2.x (pickle protocols 2 to 4) are understood.

Opcodes: CPython Lib/pickletools.py.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.files import open_regular
from mosaic_collect.text import shown

_MAX_OPCODES = 1_000_000
_MAX_PLAIN_NBYTES = 1 << 20
_MAX_HEADER_NBYTES = 1 << 16
_MAX_AXES = 32
_MAX_LENGTH = 1 << 48
_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_DICT_HEADER = re.compile(
    rb"\{'descr': '\|?O8?', 'fortran_order': (True|False), 'shape': \(\), \} *\n?"
)
_CALLS = ("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype")
_OBJECT, _OBJECT_FLAGS = "O8", 63
_ONE_BYTE = ("b1", "i1", "u1", _OBJECT)
_MARK = object()
#: What ill-typed stand-ins and torn structures raise while they are taken apart.
_MALFORMED = (
    *(struct.error, ArithmeticError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)


@dataclass(frozen=True)
class StoredArray:
    """Where an array's values lie in a file: ``nbytes`` from ``offset`` on, C order."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpyFile:
    """What a file holds.

    Attributes:
        path: The file.
        nbytes: Its size.
        arrays: Key -> array.
        plain: Other keys and their values, of plain Python types.
    """

    path: str
    nbytes: int
    arrays: dict[str, StoredArray]
    plain: dict[str, Any]


def scan_npy(path: str | os.PathLike[str]) -> NpyFile:
    """Find out what a file holds, reading only what lies between its arrays' values.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or no dict of arrays.
    """
    name = os.fspath(path)
    with _open(name) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            _check_header(file)
            root = _Machine(file, size).run()
        except CorruptExportError as error:
            raise CorruptExportError(f"{name}: {error}") from error
        except _MALFORMED as error:
            raise CorruptExportError(f"{name}: not a well-formed file: {error!r:.200}") from error
    content = _content(root, name)
    arrays = {
        k: v.stored(f"{name}: {shown(k)}") for k, v in content.items() if isinstance(v, _Array)
    }
    plain = {k: v for k, v in content.items() if not isinstance(v, _Array)}
    return NpyFile(name, size, arrays, plain)


def _open(name: str) -> BinaryIO:
    try:
        return os.fdopen(open_regular(name), "rb")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise CorruptExportError(f"{name}: {error.strerror}") from error


def _content(root: Any, name: str) -> dict[str, Any]:
    """The dict inside the 0-d object array."""
    whole = isinstance(root, _Array) and isinstance(root.dtype, _Dtype) and root.dtype.built
    if whole and root.shape == () and root.dtype.code == _OBJECT and isinstance(root.values, list):
        content = root.values[0] if len(root.values) == 1 else None
        if isinstance(content, dict) and all(isinstance(k, str) for k in content):
            return content
    raise CorruptExportError(f"{name}: expected one dict with names as keys")


def _check_header(file: BinaryIO) -> None:
    """Compared as text: evaluating it, as NumPy does, is for files that one trusts."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise CorruptExportError("not an npy file")
    form = "<H" if magic[6] == 1 else "<I"
    (nbytes,) = struct.unpack(form, file.read(struct.calcsize(form)))
    header = file.read(min(nbytes, _MAX_HEADER_NBYTES))
    if not _DICT_HEADER.fullmatch(header):
        told = shown(header.decode("latin-1").strip())
        raise CorruptExportError(f"expected a dict, got an array with the header {told}")


@dataclass(frozen=True)
class _Extent:
    """A byte string left in the file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Global:
    """A name that was mentioned, not looked up."""

    module: str
    name: str

    @property
    def plain(self) -> str:
        """The name as NumPy 1.x has it."""
        return f"{self.module.replace('numpy._core', 'numpy.core')}.{self.name}"


class _Dtype:
    """A dtype under construction; BUILD fills it."""

    def __init__(self, code: Any, align: Any, copy: Any) -> None:
        if not isinstance(code, str) or align is not False or copy is not True:
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        self.code = code.lstrip("<|=")
        self.built = False

    def build(self, version: Any, order: Any, *rest: Any) -> None:
        """Take the state: nothing but the byte order, for numbers."""
        flags = _OBJECT_FLAGS if self.code == _OBJECT else 0
        # NumPy trusts flags and the like without a look: one bit off, and it crashes.
        if version != 3 or rest != (None, None, None, -1, -1, flags):
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        if order != ("|" if self.code in _ONE_BYTE else "<"):
            raise CorruptExportError(f"byte order {shown(order)}, which MOSAIC cannot take")
        self.built = True

    def resolve(self) -> np.dtype[Any]:
        """The dtype, little-endian."""
        if self.code not in _DTYPES or not self.built:
            raise CorruptExportError(f"dtype {shown(self.code)} is no number or bool")
        return np.dtype("<" + self.code)


class _Array:
    """An array under construction; BUILD fills it."""

    def __init__(self) -> None:
        self.shape: Any = None
        self.dtype: Any = None
        self.fortran: Any = False
        self.values: Any = None

    def build(self, version: Any, shape: Any, dtype: Any, fortran: Any, values: Any) -> None:
        """Take the state."""
        if version != 1 or not isinstance(fortran, bool) or not _is_shape(shape):
            raise CorruptExportError(f"an array with the shape {shown(shape)}")
        self.shape, self.dtype, self.fortran, self.values = shape, dtype, fortran, values

    def stored(self, what: str) -> StoredArray:
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.values, (_Extent, bytes)):
            raise CorruptExportError(f"{what}: expected an array of numbers")
        values = self.values
        try:
            dtype = self.dtype.resolve()
        except CorruptExportError as error:
            raise CorruptExportError(f"{what}: {error}") from error
        if isinstance(values, bytes):
            raise CorruptExportError(f"{what}: values outside the file")
        if values.nbytes != prod(self.shape) * dtype.itemsize:
            raise CorruptExportError(f"{what}: {values.nbytes} bytes for {self.shape} of {dtype}")
        if self.fortran and len([n for n in self.shape if n > 1]) > 1:
            raise CorruptExportError(f"{what}: Fortran order, which MOSAIC cannot take either")
        return StoredArray(values.offset, values.nbytes, self.shape, dtype)


class _Machine:
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
        data = self._file.readline(_MAX_HEADER_NBYTES)
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
        self.push(_Extent(offset, nbytes))

    def long(self, form: str) -> None:
        """Push a big whole number."""
        self.push(int.from_bytes(self._short(self.number(form)), "little", signed=True))

    def _short(self, nbytes: int) -> bytes:
        if not 0 <= nbytes <= _MAX_PLAIN_NBYTES:
            raise CorruptExportError(f"a plain value of {nbytes} bytes")
        return self._read(nbytes)

    def bytes_of(self, extent: Any) -> bytes:
        """A short byte string's content."""
        if not isinstance(extent, _Extent):
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
        self.push(_Global(module, name))

    def call(self) -> None:
        """Stand in for the three calls that arrays and NumPy numbers are made by."""
        arguments, function = self.pop(), self.pop()
        called = function.plain if isinstance(function, _Global) else shown(function)
        if not isinstance(arguments, tuple) or called not in _CALLS:
            needless = "which no dict of arrays needs"
            raise CorruptExportError(f"it would call {shown(called)}, {needless}")
        if called == "numpy.core.multiarray._reconstruct":
            self._check_reconstruct(*arguments)
            self.push(_Array())
        elif called == "numpy.dtype":
            self.push(_Dtype(*arguments))
        else:
            dtype, value = arguments
            self.push(np.frombuffer(self.bytes_of(value), dtype.resolve())[0].item())

    def _check_reconstruct(self, kind: Any, shape: Any, code: Any) -> None:
        named = isinstance(kind, _Global) and kind.plain == "numpy.ndarray"
        if not named or shape != (0,) or self.bytes_of(code) != b"b":
            raise CorruptExportError("an array is not made as NumPy makes one")

    def build(self) -> None:
        """Give the array or dtype on top its state."""
        state, target = self.pop(), self._stack[-1]
        if not isinstance(state, tuple) or not isinstance(target, (_Array, _Dtype)):
            raise CorruptExportError("state for something that is no array")
        target.build(*state)


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_AXES
        and all(type(n) is int and 0 <= n < _MAX_LENGTH for n in shape)
    )


def _push(value: Any) -> Callable[[_Machine], None]:
    """An action that pushes a fresh ``value()``."""
    return lambda m: m.push(value())


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
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
