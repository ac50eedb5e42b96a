"""Fixtures of the import's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def made(tmp_path) -> str:
    """A path at which no store lies yet; ``store`` is where the file comes from."""
    return str(tmp_path / "imported.zarr")
