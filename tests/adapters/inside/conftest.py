"""Fixtures of the tests that run beside one installed rsl_rl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", params=[False, True], ids=["mlp", "recurrent"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``(runner, checkpoint path, recurrent)`` after an iteration of training."""
    from tests.adapters.inside.toy import train

    path = str(tmp_path_factory.mktemp("trained") / "model.pt")
    return train(path, recurrent=request.param), path, request.param


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """Where a checkpoint may be written."""
    return str(tmp_path / "model.pt")
