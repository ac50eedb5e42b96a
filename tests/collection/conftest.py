"""Fixtures of the simulation's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing takes most of a small test's time, and only tests/durability cuts the power."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
