"""Stores read by zarrita, in Node and in a browser: shards, labels, codecs, names, all bits.

``scripts/test.sh`` installs it beside ``zarrita/read.js``, where there is npm.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browsing import served
from tests.conformance.cases import CASES, Case

PROGRAM = Path(__file__).parent / "zarrita"
if not (PROGRAM / "node_modules" / "zarrita").is_dir():
    pytest.skip(f"zarrita is not installed in {PROGRAM}", allow_module_level=True)
#: In a browser as well: of every compressor, of several axes, of every dtype.
IN_A_PAGE = [c for c in CASES if c.chunk_nbytes < 100 or "all" in str(c) or c.compressor == "zstd"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Path]:
    folder = tmp_path_factory.mktemp("zarrita")
    made = {case: folder / f"{index}.zarr" for index, case in enumerate(CASES)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        for case, path in made.items():
            case.write(str(path), patch)
    return made


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def check(found: dict[str, Any], case: Case, unknown: tuple[str, ...] = ()) -> None:
    """Compare what was read of a store; fields of dtypes that are ``unknown`` say so."""
    assert found[""] == ["mosaic_collect"]
    for name, want in case.holds().items():
        if want.dtype.name in unknown:
            assert "unsupported dataType" in found[name]["error"], name
            continue
        assert found[name] == {
            "shape": list(want.shape),
            "dtype": want.dtype.name,
            "all": digest(want),
            "part": digest(want[1::2, ::2]),
        }, name


def test_in_node(stores: dict[Case, Path]) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    asked = {str(path): [*case.holds()] for case, path in stores.items()}
    done = subprocess.run(
        [node, "node.js"],
        input=json.dumps(asked),
        cwd=PROGRAM,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    version = subprocess.check_output([node, "-p", "typeof Float16Array"], text=True)
    unknown = ("float16",) if "undefined" in version else ()
    for case, path in stores.items():
        check(found[str(path)], case, unknown)


@pytest.fixture
def page(browser: Any, tmp_path: Path, stores: dict[Case, Path]) -> Iterator[Any]:
    """The page, served beside the stores on this machine."""
    os.symlink(PROGRAM, tmp_path / "page")
    os.symlink(stores[CASES[0]].parent, tmp_path / "stores")
    with served(tmp_path) as address:
        opened = browser.new_page()
        said: list[str] = []
        opened.on("console", lambda m: said.append(m.text))
        opened.on("pageerror", lambda e: said.append(str(e)))
        opened.goto(f"{address}/page/page.html")
        yield opened
        opened.close()
        assert said == []


@pytest.mark.slow
def test_in_a_browser(page: Any, stores: dict[Case, Path]) -> None:
    assert {case.compressor for case in IN_A_PAGE} == {"auto", "lz4", "none", "zstd"}
    for case in IN_A_PAGE:
        call = "([address, names]) => window.digests(address, names)"
        names = [*case.holds()]
        check(page.evaluate(call, [f"../stores/{stores[case].name}", names]), case)
