"""Files made to harm: refused in a short time and little memory, and nothing in them is run.

Each is scanned, shown and imported in a process of its own, with bounds, as it may hang or kill it.
The processes are forked off one that has imported what is needed.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from mosaic_collect.cli import main
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.read import scan_npy
from tests.npyfile import pickles
from tests.npyfile.bounded import told_of
from tests.npyfile.pickles import (
    BEGIN,
    END,
    array,
    bomb,
    dict_of,
    nested_lists,
    shape_of,
    text,
    values_of,
    whole,
)

# What became of all cases is found once, in one process of pytest.
pytestmark = pytest.mark.xdist_group("hostile files")

_CODE = """
import contextlib, io, os
from mosaic_collect.cli import main
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.npyfile.read import scan_npy

def scan(path):
    try:
        with contextlib.suppress(CorruptExportError):
            read_npy(path)
        scan_npy(path)
    except CorruptExportError as error:
        return "refused" if len(str(error)) < 5000 else "refused at length"
    return "accepted"

def run(*command):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return main([*command]), said.getvalue()

def tell(path):
    told = scan(path)
    codes = {run("inspect", path)[0], run("inspect", "--json", path)[0]}
    if not codes <= {0, 2}:
        told += f", inspect gave exit codes {codes}"
    code, said = run("import", path, path + ".zarr")
    told += f"; import: {code}, {said.count(chr(10))} lines"
    told += ", written" if os.path.exists(path + ".zarr") else ""
    told += ", out of memory" if "not enough memory" in said else ""
    return told + (", at length" if len(said) > 5000 else "")
"""
NOT_IMPORTED = "; import: 2, 1 lines"

_VALUES = values_of(bytes(24))
_SHAPE = shape_of(2, 3)
_ROWS = array(shape_of(2, 3, 1), _VALUES)


#: Files that must be refused.
REFUSED = {
    "calls os.system": b"\x80\x04cos\nsystem\n" + text("touch {mark}") + b"\x85R.",
    "calls it by a text's names": b"\x80\x04"
    + text("posix")
    + text("system")
    + b"\x93"
    + text("touch {mark}")
    + b"\x85R.",
    "calls it in the metadata": dict_of(
        metadata=b"cos\nsystem\n" + text("touch {mark}") + b"\x85R"
    ),
    "calls eval by INST": b"\x80\x04(" + text("open('{mark}', 'w')") + b"ibuiltins\neval\n.",
    "calls by NEWOBJ": b"\x80\x04csubprocess\nPopen\n" + text("touch {mark}") + b"\x85\x81.",
    "a persistent id": b"\x80\x04Pabc\n.",
    "an extension": b"\x80\x04\x82\x01.",
    "a class's state": b"\x80\x04cos\nenviron\n}" + text("PATH") + text("x") + b"sb.",
    "values beyond the file": dict_of(a=array(_SHAPE, b"\x8e" + struct.pack("<Q", 1 << 62))),
    "values beyond 64 bits": dict_of(a=array(_SHAPE, b"\x8e" + b"\xff" * 8)),
    "a text of 4 GB": BEGIN + b"X\xff\xff\xff\xff",
    "a text of 16 EB": BEGIN + b"\x8d" + b"\xff" * 8,
    "a number of 2 GB": BEGIN + b"\x8b\xff\xff\xff\x7f",
    "a number of -1 bytes": BEGIN + b"\x8b\xff\xff\xff\xff",
    "a shape that its values do not fill": dict_of(a=array(shape_of(2, 4), _VALUES)),
    "a shape of less than nothing": dict_of(a=array(shape_of(-2, -3), _VALUES)),
    "a shape of floats": dict_of(a=array(b"(" + b"G" + bytes(8) + b"t", _VALUES)),
    "a shape of bools": dict_of(a=array(b"(\x88\x88t", values_of(bytes(4)))),
    "a shape that is no tuple": dict_of(a=array(b"]", _VALUES)),
    "a shape of huge numbers": dict_of(
        a=array(b"(" + whole(1 << 8_000_000) + b"q\x00" + b"h\x00" * 2000 + b"t", _VALUES)
    ),
    "a dtype of a bomb": dict_of(a=b"cnumpy\ndtype\n" + bomb(60) + b"\x85R"),
    "a call of a bomb": dict_of(a=bomb(60) + b")R"),
    "a shape of a bomb": dict_of(a=array(bomb(60) + b"\x85", _VALUES)),
    "a name of a bomb": dict_of(a=bomb(60) + text("x") + b"\x93"),
    "a byte order of a bomb": dict_of(
        a=b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R(K\x03" + bomb(60) + b"tb"
    ),
    "an array of itself": dict_of(a=pickles.EMPTY_ARRAY + b"q\x00h\x00b"),
    "a number as a dict": b"\x80\x04K\x01K\x02K\x03s.",
    "nothing at all": b".",
    "no mark": b"\x80\x04t.",
    "an unknown memo": b"\x80\x04h\x07.",
    "more opcodes than any dict": b"\x80\x04" + b"N" * 3_000_000 + b".",
    "deep lists": b"\x80\x04" + nested_lists(400_000) + b".",
    "deep tuples as a key": BEGIN + b")" + b"\x85" * 300_000 + b"Ns" + END,
    "a header of minus signs": b"",
}
_MINUS_SIGNS = b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_001) + b"-" * 60_000 + b"1"

#: Files that may be accepted as data, but must do no harm when they are shown or imported.
SHOWN = {
    "metadata that is a bomb": dict_of(metadata=b"}" + text("x") + bomb(60) + b"s"),
    "a list of itself, often": dict_of(
        metadata=b"}" + text("x") + b"]q\x00(" + b"h\x00" * 100_000 + b"es"
    ),
    "a long text, often": dict_of(
        metadata=b"}"
        + text("x")
        + b"]("
        + text("x" * 1_000_000)
        + b"q\x00"
        + b"h\x00" * 90_000
        + b"es"
    ),
    "metadata that holds itself": dict_of(metadata=b"}q\x00" + text("x") + b"h\x00s"),
    "a list that holds itself": dict_of(metadata=b"}" + text("x") + b"]q\x00h\x00as"),
    "deep metadata": dict_of(metadata=b"}" + text("x") + nested_lists(100_000) + b"s"),
    "a number of a million digits": dict_of(
        metadata=b"}" + text("num_steps") + whole(1 << 4_000_000) + b"s"
    ),
    "keys that are no texts": dict_of(metadata=b"}K\x01K\x02\x86N" + b"s"),
    "keys that are tuples in it": dict_of(metadata=b"}" + text("x") + b"}K\x01K\x02\x86Nss"),
    "bytes as metadata": dict_of(metadata=b"}" + text("x") + values_of(b"abc") + b"s"),
    "an array in the metadata": dict_of(metadata=b"}" + text("x") + array(_SHAPE, _VALUES) + b"s"),
    "a name in the metadata": dict_of(metadata=b"}" + text("x") + b"cos\nsystem\ns"),
    "provenance of numbers": dict_of(
        metadata=b"}" + text("mosaic_collect") + b"}" + text("left_out") + b"K\x05ss"
    ),
    "terminal control codes": dict_of(
        metadata=b"}" + text("x") + text("\x1b]0;pwned\x07\x1b[2J") + b"s"
    ),
}

#: Of these, what a store's metadata can hold.
IMPORTED = ("provenance of numbers", "terminal control codes")


def write_case(folder: Path, name: str, pickled: bytes) -> None:
    """One case as a file; what is shown has the arrays that an import needs, too."""
    if name in SHOWN:
        rows = [text(key) + _ROWS + b"s" for key in ("observations", "actions")]
        pickled = b"".join([pickled.removesuffix(END), *rows, END])
    if b"{mark}" in pickled:
        pickled = _with_mark(pickled, str(folder / f"{name}.executed").encode())
    head = _MINUS_SIGNS if name == "a header of minus signs" else None
    pickles.write(str(folder / f"{name}.npy"), pickled, head)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds each case as a file ``NAME.npy``; ``NAME.executed`` comes to be if it is run."""
    made = tmp_path_factory.mktemp("hostile")
    for name, pickled in {**REFUSED, **SHOWN}.items():
        write_case(made, name, pickled)
    os.mkfifo(made / "a pipe.npy")
    return made


@pytest.fixture(scope="module")
def became(folder: Path) -> dict[str, str]:
    """What became of each case."""
    return told_of(folder, _CODE)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(became: dict[str, str], folder: Path, case: str) -> None:
    assert became[case] == "refused" + NOT_IMPORTED
    assert not (folder / f"{case}.executed").exists()


@pytest.mark.parametrize("case", SHOWN)
def test_shown_and_imported_without_harm(became: dict[str, str], case: str) -> None:
    imported = "; import: 0, 0 lines, written" if case in IMPORTED else NOT_IMPORTED
    assert became[case].removesuffix(imported) in ("accepted", "refused")


def test_a_pipe_is_not_waited_for(became: dict[str, str]) -> None:
    assert became["a pipe"].endswith(NOT_IMPORTED)


def test_control_codes_do_not_reach_the_terminal(tmp_path, capsys) -> None:
    path = pickles.write(str(tmp_path / "hostile.npy"), SHOWN["terminal control codes"])
    main(["inspect", path])
    assert "\x1b" not in capsys.readouterr().out


def test_the_marks_would_be_made_if_it_were_run(tmp_path) -> None:
    """The hostile files are what they are said to be: numpy itself runs them."""
    mark = tmp_path / "executed"
    pickled = _with_mark(REFUSED["calls os.system"], str(mark).encode())
    path = pickles.write(str(tmp_path / "hostile.npy"), pickled)
    np.load(path, allow_pickle=True)
    assert mark.exists()


def _with_mark(pickled: bytes, mark: bytes) -> bytes:
    at = pickled.index(b"{mark}")
    start = pickled.rindex(b"X", 0, at)
    length = struct.unpack_from("<I", pickled, start + 1)[0]
    old = pickled[start + 5 : start + 5 + length]
    new = old.replace(b"{mark}", mark)
    return pickled[: start + 1] + struct.pack("<I", len(new)) + new + pickled[start + 5 + length :]


def test_errors_name_the_file(tmp_path) -> None:
    path = pickles.write(str(tmp_path / "hostile.npy"), REFUSED["an extension"])
    with pytest.raises(CorruptExportError, match=r"hostile\.npy"):
        scan_npy(path)
