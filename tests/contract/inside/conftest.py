"""Fixtures of tests beside Isaac Lab 2's own code."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five motions and a checkpoint."""
    from tests.adapters.inside.toy import train
    from tests.contract.inside.session import toy_env
    from tests.contract.inside.toy import write_motions
    from tests.contract.inside.toy_tasks import AgentCfg

    folder = tmp_path_factory.mktemp("script")
    motions = write_motions(folder / "motions", [6, 4, 5, 6, 3])
    train(str(folder / "model.pt"), env=toy_env(motions, 2), told=AgentCfg().to_dict())
    return folder
