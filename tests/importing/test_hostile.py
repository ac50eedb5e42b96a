"""Files made to harm: refused with one line and exit code 2, and nothing written or run.

The files are those of tests/npyfile/test_hostile.py, with arrays added where one is harmless
in itself; each is imported in a forked process with bounds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import helpers
from tests.npyfile import pickles
from tests.npyfile.test_hostile import REFUSED, SHOWN, write_case

_CODE = """
import contextlib, io, json, os, resource, signal, sys, warnings
from mosaic_collect.cli import main

warnings.simplefilter("ignore")  # of forking

def bounded(path, out):
    signal.alarm(20)  # its default action is to kill, in C code, too
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(["import", path, path + ".zarr"])
        told = f"{code}, {said.getvalue().count(chr(10))} lines"
        told += ", written" if os.path.exists(path + ".zarr") else ""
        told += ", at length" if len(said.getvalue()) > 5000 else ""
    except BaseException as error:
        told = f"raised {type(error).__name__}"
    os.write(out, told.encode())

found = {}
for name in sys.argv[1:]:
    source, out = os.pipe()
    child = os.fork()
    if not child:
        bounded(name, out)
        os._exit(0)
    os.close(out)
    with open(source) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status)
    found[name] = f"signal {killed}" if killed else told
print(json.dumps(found))
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
    paths = sorted(str(path) for path in folder.glob("*.npy"))
    done = helpers.run_python(_CODE, *paths, timeout=500)
    assert done.returncode == 0, done.stderr
    return {Path(path).stem: told for path, told in json.loads(done.stdout).items()}


@pytest.mark.parametrize("case", [*REFUSED, *(n for n in SHOWN if n not in KEPT), "a pipe"])
def test_refused_in_one_line(became: dict[str, str], folder: Path, case: str) -> None:
    assert became[case] == "2, 1 lines"
    assert not (folder / f"{case}.executed").exists()


@pytest.mark.parametrize("case", KEPT)
def test_kept_as_what_it_is(became: dict[str, str], case: str) -> None:
    assert became[case].startswith("0, 0 lines, written")
