"""Nothing here may wait for ever: a test that hangs shows all stacks and ends the run."""

from __future__ import annotations

import faulthandler
import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.durability.explorer import RAM
from tests.durability.figures import FIGURES

_SECONDS = float(os.environ.get("MOSAIC_COLLECT_WATCHDOG", "600"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("durability, in figures")
    for what, number in FIGURES.items():
        terminalreporter.write_line(f"{what:<58}{number:>9}")


@pytest.fixture(scope="session")
def terminal(pytestconfig: pytest.Config) -> Iterator[int]:
    """A descriptor of the run's own stderr: what a test prints is lost with a run that ends."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        fd = os.dup(2)
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def watchdog(terminal: int) -> Iterator[None]:
    faulthandler.dump_traceback_later(_SECONDS, exit=True, file=terminal)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def ram_store() -> Iterator[str]:
    """A path at which no store lies yet, where syncing costs nothing."""
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        yield os.path.join(folder, "expert.zarr")
