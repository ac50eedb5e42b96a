"""Real installs of each rsl_rl generation: train, save, load, collect, replay."""

from __future__ import annotations

import pytest

from tests.envs import RSL_RL


@pytest.mark.slow
@pytest.mark.parametrize("version", RSL_RL)
def test_rsl_rl(version: str) -> None:
    RSL_RL[version].pytest("tests/adapters/inside")
