"""Read a ``.npy`` file that holds a dict of arrays, without unpickling it.

``scan_npy`` finds out where the arrays lie and reads only what is between their values;
``read_npy`` reads the values, too. The standard library's own pickle machine runs the file, with
three changes: it knows only the opcodes that a dict of arrays needs, every global is a stand-in,
and byte strings stay in the file. So a hostile file is refused, and nothing in it is executed.

Files written by this package and by ``np.save`` of NumPy 1.x and 2.x (pickle protocols 2 to 5) are
understood.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import struct
import sys
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import LFS_NBYTES, lfs_pointer, local_path
from mosaic_collect.errors import CorruptExportError, InputError
from mosaic_collect.npyfile.layout import OURS, StoredArray
from mosaic_collect.store.files import open_regular
from mosaic_collect.store.parsing import json_copy, object_in
from mosaic_collect.text import shown

# Of CPython's Lib/pickletools.py: marks and memo, plain values, containers, names and calls.
_OPCODES = b"\x80\x95(\x94qrhjN\x88\x89KMJ\x8a\x8bG\x8cX\x8dCB\x8e)]}t\x85\x86\x87aesuc\x93Rb"
_MAX_OPCODES = 1_000_000
_MAX_PLAIN_NBYTES = 64 << 20  # of all that is not an array's values
_MAX_LINE_NBYTES = 1 << 16
_DICT_HEADER = re.compile(
    rb"\{'descr': '\|?O8?', 'fortran_order': (True|False), 'shape': \(\), \} *\n?"
)
_NUMBERS = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_OBJECT = "O8"  # the code of an object array, which holds the dict
_KEYS = (str, int, float, type(None))  # hashing a deeply nested tuple overflows the stack of C
_MAX_VALUES, _MAX_CHARACTERS, _MAX_BITS = 100_000, 8_000_000, 4096  # of metadata as JSON


@dataclass(frozen=True)
class Extent:
    """A byte string that was left in the file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class NpyFile:
    """Contents of a file.

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

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's ``metadata``, MOSAIC's entries and ours; empty where it has none."""
        return object_in(self.plain, "metadata")

    @property
    def provenance(self) -> dict[str, Any] | None:
        """The entry that an export of ours writes into the metadata; None in other files."""
        ours = self.metadata.get(OURS)
        return ours if isinstance(ours, dict) else None


def scan_npy(path: str | os.PathLike[str]) -> NpyFile:
    """Find the arrays of a file, reading only what lies between their values.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: The file is torn, hostile, or no dict of arrays.
    """
    name = local_path(path, "npy")
    with _open(name) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            _check_header(file)
            content = _content(_Machine(file, size).load())
            arrays = {k: v.stored(shown(k)) for k, v in content.items() if isinstance(v, _Array)}
        except CorruptExportError as error:
            raise CorruptExportError(f"{name}: {error}") from error
        except Exception as error:  # whatever ill-typed values and torn structures raise
            raise CorruptExportError(f"{name}: not a well-formed file: {error!r:.200}") from error
    plain = {k: v for k, v in content.items() if k not in arrays}
    return NpyFile(name, size, arrays, plain)


def read_npy(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``np.load(path, allow_pickle=True).item()`` gives: arrays and plain values alone.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or with other things in it; the message names which.
    """
    file = scan_npy(path)
    fd = open_regular(file.path)
    try:
        values = _Values(fd, file.path)
        arrays = {name: values.array(stored) for name, stored in file.arrays.items()}
        return {**arrays, **{name: values.solid(value) for name, value in file.plain.items()}}
    except RecursionError as error:
        raise CorruptExportError(f"{file.path}: nested too deeply") from error
    finally:
        os.close(fd)


def read_into(fd: int, buffer: memoryview, offset: int, path: str) -> None:
    """Fill the buffer from a file's bytes.

    Raises:
        CorruptExportError: There are fewer; ``path`` names the file.
    """
    while len(buffer):
        nbytes = os.preadv(fd, [buffer], offset)
        if not nbytes:
            raise changed(path)
        buffer, offset = buffer[nbytes:], offset + nbytes


def changed(path: str) -> CorruptExportError:
    """Make the error of a file that is no longer what was scanned."""
    return CorruptExportError(f"{path}: was changed while it was being read")


def plain_copy(values: dict[str, Any], path: str) -> dict[str, Any]:
    """Copy values as JSON gives them back: keys that are numbers and NaN become texts.

    Values are counted before JSON is made of them: a few bytes of a pickle can stand for endlessly
    many. A value that stands in it twice counts twice, so values that hold themselves end, too.

    Raises:
        CorruptExportError: A value that JSON cannot hold, or too many.
    """
    count, characters, rest = 1, 0, [values]
    while rest:
        value: Any = rest.pop()
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else []
        inner = list(value) if isinstance(value, (list, tuple)) else inner
        count, characters = count + len(inner), characters + _length(value, path)
        if count > _MAX_VALUES or characters > _MAX_CHARACTERS:
            raise CorruptExportError(
                f"{path}: metadata: expected at most {_MAX_VALUES} values and "
                f"{_MAX_CHARACTERS} characters, got more"
            )
        rest += inner
    try:
        return json_copy(values, nonfinite_as_text=True)
    except InputError as error:
        raise CorruptExportError(f"{path}: {error}") from error


def _length(value: Any, path: str) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # Python writes none of so many
        raise CorruptExportError(f"{path}: metadata: got {shown(value)}")
    if value is None or isinstance(value, (int, float, dict, list, tuple)):
        return 0
    raise CorruptExportError(
        f"{path}: metadata: expected text, numbers, lists and dicts, got bytes, an array or a name"
    )


# -- the pickle machine ------------------------------------------------------------------------


class _Dtype:
    """Stand-in for a dtype under construction; BUILD fills it."""

    def __init__(self, code: Any, align: Any, copy: Any) -> None:
        if not isinstance(code, str) or align is not False or copy is not True:
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        self.code, self.built = code.lstrip("<|="), False

    def build(self, version: Any, order: Any, *rest: Any) -> None:
        """Take the state: nothing but the byte order, for numbers."""
        # NumPy trusts flags and the like without a look: one bit off, and it crashes.
        flags = 63 if self.code == _OBJECT else 0
        if version != 3 or rest != (None, None, None, -1, -1, flags):
            raise CorruptExportError("a dtype is not made as NumPy makes one")
        if order != ("|" if self.code == _OBJECT or self.code.endswith("1") else "<"):
            raise CorruptExportError(f"byte order {shown(order)}, which MOSAIC cannot take")
        self.built = True

    def resolve(self, what: str = "") -> np.dtype[Any]:
        if self.code not in _NUMBERS or not self.built:
            raise CorruptExportError(f"{what}dtype {shown(self.code)} is no number or bool")
        return np.dtype("<" + self.code)


class _Array:
    """Stand-in for an array under construction; BUILD fills it."""

    shape: Any = None
    dtype: Any = None
    fortran: Any = False
    values: Any = None

    def build(self, version: Any, shape: Any, dtype: Any, fortran: Any, values: Any) -> None:
        """Take the state."""
        whole = isinstance(shape, tuple) and len(shape) <= 32
        whole = whole and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
        if version != 1 or not isinstance(fortran, bool) or not whole:
            raise CorruptExportError(f"an array with the shape {shown(shape)}")
        self.shape, self.dtype, self.fortran, self.values = shape, dtype, fortran, values

    def stored(self, what: str) -> StoredArray:
        """Find the values, once they are known to be numbers in C order, and all there."""
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.values, Extent):
            raise CorruptExportError(f"{what}: expected an array of numbers")
        dtype = self.dtype.resolve(f"{what}: ")
        offset, nbytes = self.values.offset, self.values.nbytes
        if nbytes != prod(self.shape) * dtype.itemsize:
            raise CorruptExportError(f"{what}: {nbytes} bytes for {self.shape} of {dtype}")
        if prod(max(1, n) for n in self.shape) * dtype.itemsize > sys.maxsize:
            raise CorruptExportError(f"{what}: axes too long for NumPy: {self.shape} of {dtype}")
        if self.fortran and sum(n > 1 for n in self.shape) > 1:
            raise CorruptExportError(f"{what}: Fortran order, which MOSAIC cannot take either")
        return StoredArray(offset, nbytes, self.shape, dtype)


@dataclass(frozen=True)
class _Global:
    """Stand-in for a name, which is never looked up."""

    name: str


class _Machine(pickle._Unpickler):
    """CPython's pickle machine in Python, on stand-ins and with bounds."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES
    }

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._file, self._size, self._left = file, size, _MAX_PLAIN_NBYTES

    def load(self) -> Any:
        """Run the pickle; return the value at STOP."""
        self.read, self.readline = self._read, self._readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append, self.proto = self.stack.append, 0
        for _ in range(_MAX_OPCODES):
            code = self._read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if code[0] not in self.dispatch:
                words = "has no place in a dict of arrays"
                raise CorruptExportError(f"pickle opcode {code!r} {words}")
            self.dispatch[code[0]](self)
        raise CorruptExportError("more opcodes than a dict of arrays can have")

    def find_class(self, module: str, name: str) -> Any:
        """Stand in for the name, as NumPy 1.x has it."""
        return _Global(f"{module}.{name}".replace("numpy._core", "numpy.core"))

    def _read(self, nbytes: int) -> bytes:
        self._left -= nbytes
        if self._left < 0 or nbytes < 0:
            raise CorruptExportError(f"plain values of more than {_MAX_PLAIN_NBYTES} bytes")
        data = self._file.read(nbytes)
        if len(data) != nbytes:
            raise CorruptExportError("the file is cut off")
        return data

    def _readline(self) -> bytes:
        data = self._file.readline(_MAX_LINE_NBYTES)
        self._left -= len(data)
        if not data.endswith(b"\n"):
            raise CorruptExportError("a name is cut off")
        return data

    def _leave(self, form: str) -> None:
        """Push a byte string's place; only an array's values are long."""
        (nbytes,) = struct.unpack(form, self._read(struct.calcsize(form)))
        offset = self._file.tell()
        if nbytes > self._size - offset:
            raise CorruptExportError("the file is cut off within an array")
        self._file.seek(nbytes, os.SEEK_CUR)
        self.append(Extent(offset, nbytes))

    def _reduce(self) -> None:
        """Stand in for the three calls by which NumPy's arrays and numbers are made."""
        arguments, function = self.stack.pop(), self.stack.pop()
        called = function.name if isinstance(function, _Global) else shown(function)
        if called == "numpy.dtype":
            made: Any = _Dtype(*arguments)
        elif called == "numpy.core.multiarray.scalar":
            dtype, value = arguments
            made = np.frombuffer(self._bytes(value), dtype.resolve())[0].item()
        elif called == "numpy.core.multiarray._reconstruct":
            made = self._reconstruct(*arguments)
        else:
            needless = "which no dict of arrays needs"
            raise CorruptExportError(f"it would call {shown(called)}, {needless}")
        self.append(made)

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> _Array:
        if kind != _Global("numpy.ndarray") or shape != (0,) or self._bytes(code) != b"b":
            raise CorruptExportError("an array is not made as NumPy makes one")
        return _Array()

    def _bytes(self, extent: Any) -> bytes:
        """Read a byte string of a few bytes that was left in the file."""
        if not isinstance(extent, Extent) or extent.nbytes > 64:
            raise CorruptExportError("expected a few bytes")
        return os.pread(self._file.fileno(), extent.nbytes, extent.offset)

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple) or not isinstance(target, (_Array, _Dtype)):
            raise CorruptExportError("state for something that is no array")
        target.build(*state)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or not all(isinstance(key, _KEYS) for key in items[::2]):
            raise CorruptExportError("expected a dict with texts or numbers as keys")
        target.update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {
        pickle.FRAME[0]: lambda self: self._read(8),
        pickle.SHORT_BINBYTES[0]: lambda self: self._leave("<B"),
        pickle.BINBYTES[0]: lambda self: self._leave("<I"),
        pickle.BINBYTES8[0]: lambda self: self._leave("<Q"),
        pickle.SETITEMS[0]: lambda self: self._set(self.pop_mark()),
        pickle.SETITEM[0]: lambda self: self._set([self.stack.pop(), self.stack.pop()][::-1]),
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
    }


def _open(name: str) -> BinaryIO:
    try:
        return os.fdopen(open_regular(name), "rb")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise CorruptExportError(f"{name}: {error.strerror}") from error


def _check_header(file: BinaryIO) -> None:
    """Compare the header as text: NumPy evaluates it, which is for files that one trusts."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        words = lfs_pointer(magic + file.read(LFS_NBYTES))
        raise CorruptExportError(f"it is {words}" if words else "not an npy file")
    form = "<H" if magic[6] == 1 else "<I"
    (nbytes,) = struct.unpack(form, file.read(struct.calcsize(form)))
    header = file.read(min(nbytes, _MAX_LINE_NBYTES))
    if not _DICT_HEADER.fullmatch(header):
        told = shown(header.decode("latin-1").strip())
        raise CorruptExportError(f"expected a dict, got an array with the header {told}")


def _content(root: Any) -> dict[str, Any]:
    """The dict inside the 0-d object array."""
    whole = isinstance(root, _Array) and isinstance(root.dtype, _Dtype) and root.dtype.built
    if whole and root.shape == () and root.dtype.code == _OBJECT and type(root.values) is list:
        content = root.values[0] if len(root.values) == 1 else None
        if type(content) is dict and all(isinstance(key, str) for key in content):
            return content
    raise CorruptExportError("expected one dict with names as keys")


class _Values:
    """Read values, each byte and each container once, however often the file names it."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._bytes: dict[tuple[int, int], NDArray[np.uint8]] = {}  # by offset and size
        self._made: dict[int, Any] = {}  # by the stand-in's id

    def array(self, stored: StoredArray) -> NDArray[Any]:
        """Read an array."""
        data = self._read(stored.offset, stored.nbytes)
        if stored.dtype.kind == "b" and data.max(initial=0) > 1:
            raise CorruptExportError(f"{self._path}: expected bool, got a byte of {data.max()}")
        return data.view(stored.dtype).reshape(stored.shape)

    def solid(self, value: Any) -> Any:
        """Copy a plain value, with arrays and byte strings where stand-ins were."""
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        if id(value) not in self._made:
            self._make(value)
        return self._made[id(value)]

    def _make(self, value: Any) -> None:
        made: Any
        if isinstance(value, (dict, list)):
            made = self._made[id(value)] = type(value)()  # before its inside, which may hold it
            if isinstance(value, dict):
                made.update((key, self.solid(inner)) for key, inner in value.items())
            else:
                made.extend(map(self.solid, value))
        elif isinstance(value, Extent):
            made = self._read(value.offset, value.nbytes).tobytes()
        elif isinstance(value, tuple):
            made = tuple(map(self.solid, value))
        elif isinstance(value, _Array):
            made = self.array(value.stored(f"{self._path}: metadata"))
        else:
            told = value.name if isinstance(value, _Global) else value
            words = f"expected arrays and plain values, got {shown(told)}"
            raise CorruptExportError(f"{self._path}: {words}")
        self._made[id(value)] = made

    def _read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        if (offset, nbytes) not in self._bytes:
            data = np.empty(nbytes, np.uint8)
            read_into(self._fd, data.data, offset, self._path)
            self._bytes[offset, nbytes] = data
        return self._bytes[offset, nbytes]
