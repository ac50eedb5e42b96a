"""Tests that run in other environments: real installs of each rsl_rl and Isaac Lab.

``tests/adapters/inside`` trains, saves, loads, collects and replays with each rsl_rl;
``tests/contract/inside`` has Isaac Lab 2's own environment, managers and wrapper, without the
simulator; ``tests/isaaclab3/inside`` has all of Isaac Lab 3 with real physics, on Newton.
"""

from __future__ import annotations

import pytest

from tests.envs import ISAACLAB, ISAACLAB3, RSL_RL, Environment

# One group, for groups run before single tests, and Isaac Lab 3 takes two minutes.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("environments")]
FOLDERS = {
    "tests/adapters/inside": RSL_RL.values(),
    "tests/contract/inside": ISAACLAB.values(),
    "tests/isaaclab3/inside": [ISAACLAB3],
}
CASES = [(folder, each) for folder, environments in FOLDERS.items() for each in environments]


@pytest.mark.parametrize(("folder", "environment"), CASES, ids=[e.name for _, e in CASES])
def test_inside(folder: str, environment: Environment) -> None:
    environment.pytest(folder)
