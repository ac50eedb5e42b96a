"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mosaic_collect import export_npy
from mosaic_collect.cli import main
from tests.export import stores


@dataclass(frozen=True)
class Done:
    """A command that was run: its exit code and what it printed."""

    code: int
    out: str
    err: str

    def failed(self, *words: str) -> None:
        """Check that it failed in one line on stderr that holds these words."""
        assert self.code == 2
        assert self.out == ""
        assert "Traceback" not in self.err
        assert "Errno" not in self.err
        assert self.err.startswith("mosaic-collect")
        assert self.err.count("\n") == 1, "more than one line"
        for word in words:
            assert word in self.err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run one command in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as exit_:  # argparse's way
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def made(store: str) -> str:
    """A store of ten steps of four environments, with all that an export leaves out."""
    stores.write(
        store, 10, masks=stores.some_masks(4), ends={9: [0, 2]}, falls={3: [1]},
        schema=stores.STUDENT.with_ends(), edit=stores.nan_at("actions", (6, 2)),
        metadata={"robot": "G1"},
    )  # fmt: skip
    return store


@pytest.fixture
def exported(made: str, npy: str) -> str:
    """The export of ``made``, at ``npy``."""
    export_npy(made, npy)
    return npy
