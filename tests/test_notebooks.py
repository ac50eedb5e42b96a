"""The notebooks of the documentation are executed, cell by cell."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest

from tests import helpers

NOTEBOOKS = sorted((Path(helpers.REPO) / "docs" / "notebooks").glob("*.ipynb"))


def test_there_is_one() -> None:
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ipykernel", "torch", "matplotlib", "pandas", "xarray", "dask"):
        pytest.importorskip(package)
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    monkeypatch.setenv("PYTHONPATH", helpers.REPO)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=300, resources=place, record_timing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own event loop
        client.execute()
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") == 5
    assert "text/html" in shown
    if os.environ.get("MOSAIC_COLLECT_KEEP_NOTEBOOKS"):  # so what is shown is what was run
        text = re.sub(rf"{re.escape(str(tmp_path))}/\w+", "/data", nbformat.writes(notebook))
        path.write_text(text + "\n")
