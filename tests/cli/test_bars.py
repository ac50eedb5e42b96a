"""Bars: on stderr, and only if that is a terminal."""

from __future__ import annotations

import sys

import pytest

from mosaic_collect import export_npy
from tests.export import stores


@pytest.fixture
def made(store: str, npy: str) -> tuple[str, str]:
    stores.write(store, 8)
    export_npy(store, npy)
    return store, npy


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["export", "STORE", "NPY"], ["export: 100%"]),
        (["import", "NPY", "MADE"], ["import: 100%"]),
        (["verify", "STORE", "--npy", "NPY"], ["verify: ", "compare: "]),
    ],
)
def test_bars(cli, made, tmp_path, monkeypatch, terminal: bool, command, names) -> None:
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: terminal)
    paths = {"STORE": made[0], "NPY": made[1], "MADE": str(tmp_path / "made.zarr")}
    done = cli(*[paths.get(word, word) for word in command])
    assert done.code == 0
    assert "%|" not in done.out
    for name in names:
        assert (name in done.err) == terminal
    assert done.err == "" or terminal
