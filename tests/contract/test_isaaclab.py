"""Isaac Lab's own environment, managers and wrapper, in the wheels of both rsl_rl generations."""

from __future__ import annotations

import pytest

from tests.envs import ISAACLAB


@pytest.mark.slow
@pytest.mark.parametrize("version", ISAACLAB)
def test_contract(version: str) -> None:
    ISAACLAB[version].pytest("tests/contract/inside")
