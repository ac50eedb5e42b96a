"""The whole of Isaac Lab 3 with real physics, on Newton: no Isaac Sim, no GPU."""

from __future__ import annotations

import pytest

from tests.envs import ISAACLAB3


@pytest.mark.slow
def test_isaaclab3() -> None:
    ISAACLAB3.pytest("tests/isaaclab3/inside")
