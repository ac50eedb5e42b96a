"""Fixtures of the import's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing takes most of a small test's time, and only tests/durability cuts the power."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture
def npy(tmp_path) -> str:
    """A path at which no file lies yet."""
    return str(tmp_path / "expert.npy")


@pytest.fixture
def made(tmp_path) -> str:
    """A path at which no store lies yet; ``store`` is where the file comes from."""
    return str(tmp_path / "imported.zarr")
