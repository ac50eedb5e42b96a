"""Looking into a pickled ``.npy`` dict without unpickling it and without loading its arrays.

Everything that a dict of arrays does not need is an error, so a hostile file is refused, never
executed. Files written by this package and by ``np.save`` of NumPy 1.x and 2.x (pickle protocols 2
to 4) are understood.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from typing import Any, BinaryIO

from mosaic_collect.checks import local_path
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.file import NpyFile
from mosaic_collect.npyfile.machine import Machine
from mosaic_collect.npyfile.standins import OBJECT, Array, Dtype
from mosaic_collect.store.files import open_regular
from mosaic_collect.text import shown

_MAX_HEADER_NBYTES = 1 << 16
_DICT_HEADER = re.compile(
    rb"\{'descr': '\|?O8?', 'fortran_order': (True|False), 'shape': \(\), \} *\n?"
)
#: What ill-typed stand-ins and torn structures raise while they are taken apart.
_MALFORMED = (
    *(struct.error, ArithmeticError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)


def scan_npy(path: str | os.PathLike[str]) -> NpyFile:
    """Find out what a file holds, reading only what lies between its arrays' values.

    Raises:
        FileNotFoundError: No such file.
        CorruptExportError: Torn, hostile, or no dict of arrays.
    """
    name = local_path(path, "npy")
    with _open(name) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            _check_header(file)
            root = Machine(file, size).run()
        except CorruptExportError as error:
            raise CorruptExportError(f"{name}: {error}") from error
        except _MALFORMED as error:
            raise CorruptExportError(f"{name}: not a well-formed file: {error!r:.200}") from error
    content = _content(root, name)
    arrays = {
        k: v.stored(f"{name}: {shown(k)}") for k, v in content.items() if isinstance(v, Array)
    }
    plain = {k: v for k, v in content.items() if not isinstance(v, Array)}
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
    whole = isinstance(root, Array) and isinstance(root.dtype, Dtype) and root.dtype.built
    if whole and root.shape == () and root.dtype.code == OBJECT and isinstance(root.values, list):
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
