"""Files made to harm: refused with one line and exit code 2, and nothing written or run.

The files are those of tests/npyfile/test_hostile.py, with arrays added where one is harmless
in itself; each is imported in a forked process with bounds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.npyfile import pickles
from tests.npyfile.bounded import told_of
from tests.npyfile.test_hostile import REFUSED, SHOWN, write_case

# What became of all cases is found once, in one process of pytest.
pytestmark = pytest.mark.xdist_group("hostile imports")

_CODE = """
import contextlib, io, os
from mosaic_collect.cli import main

def tell(path):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(["import", path, path + ".zarr"])
    told = f"{code}, {said.getvalue().count(chr(10))} lines"
    told += ", written" if os.path.exists(path + ".zarr") else ""
    return told + (", at length" if len(said.getvalue()) > 5000 else "")
"""
_ARRAY = pickles.array(pickles.shape_of(2, 3, 1), pickles.values_of(bytes(24)))
#: Harmless to look at, as a store: those whose metadata JSON can hold.
KEPT = ("provenance of numbers", "terminal control codes")


def with_arrays(pickled: bytes) -> bytes:
    """The dict with what else an import needs."""
    assert pickled.endswith(pickles.END)
    more = [pickles.text(key) + _ARRAY + b"s" for key in ("observations", "actions")]
    return pickled[: -len(pickles.END)] + b"".join(more) + pickles.END


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    for name, pickled in REFUSED.items():
        write_case(made, name, pickled)
    for name, pickled in SHOWN.items():
        write_case(made, name, with_arrays(pickled))
    os.mkfifo(made / "a pipe.npy")
    return made


@pytest.fixture(scope="module")
def became(folder: Path) -> dict[str, str]:
    """What became of each case."""
    return told_of(folder, _CODE)


@pytest.mark.parametrize("case", [*REFUSED, *(n for n in SHOWN if n not in KEPT), "a pipe"])
def test_refused_in_one_line(became: dict[str, str], folder: Path, case: str) -> None:
    assert became[case] == "2, 1 lines"
    assert not (folder / f"{case}.executed").exists()


@pytest.mark.parametrize("case", KEPT)
def test_kept_as_what_it_is(became: dict[str, str], case: str) -> None:
    assert became[case].startswith("0, 0 lines, written")
