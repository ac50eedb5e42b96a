"""A policy that sees images: trained, collected and replayed with the installed rsl_rl."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from tests.adapters.inside.toy import (
    ACTIONS,
    GENERATION,
    POLICY_DIM,
    STEPS,
    ToyEnv,
    config,
    record,
    train,
)

pytestmark = pytest.mark.skipif(GENERATION != 5, reason="networks for images come with rsl_rl 4")

CAMERA = (3, 16, 12)


class SeeingEnv(ToyEnv):
    """The point leaves a spot on a picture; another camera is there that nobody reads."""

    def __init__(self, num_envs: int = 4, critic_dim: int = 12) -> None:
        super().__init__(num_envs, critic_dim)
        dims = {"policy": (POLICY_DIM,), "critic": (critic_dim,), "camera": CAMERA}
        dims["unread"] = (2, 5, 5)
        self.observation_manager = SimpleNamespace(group_obs_dim=dims)

    def _observe(self) -> Any:
        groups = super()._observe()
        line = torch.linspace(-1, 1, CAMERA[1] * CAMERA[2]).reshape(CAMERA[1:])
        groups["camera"] = torch.exp(-((line - self.state[:, :3, None, None]) ** 2))
        groups["unread"] = torch.rand(self.num_envs, 2, 5, 5)
        return groups


def seeing_config(sees_flat_rows: bool) -> dict[str, Any]:
    groups = ("policy", "camera") if sees_flat_rows else ("camera",)
    told = config(normalise=sees_flat_rows, actor_groups=groups)  # rsl_rl normalises flat rows
    told["actor"] |= {
        "class_name": "CNNModel",
        "cnn_cfg": {"output_channels": [4], "kernel_size": 3, "stride": 2, "activation": "elu"},
    }
    return told


@pytest.fixture(scope="module", params=[True, False], ids=["with flat rows", "images alone"])
def recorded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, bool]:
    """A store and its policy's checkpoint."""
    if not request.param and find_spec("rsl_rl.modules.distribution") is None:
        pytest.skip("the networks of rsl_rl 4 need flat rows, too")
    folder, sees_flat_rows = tmp_path_factory.mktemp("camera"), request.param
    checkpoint, store = str(folder / "model.pt"), str(folder / "expert.zarr")
    train(checkpoint, env=SeeingEnv(), told=seeing_config(sees_flat_rows))
    record(store, checkpoint, seeing_config(sees_flat_rows), SeeingEnv())
    return store, checkpoint, sees_flat_rows


def test_the_store_holds_what_it_saw(recorded: tuple[str, str, bool]) -> None:
    store, _, sees_flat_rows = recorded
    data = TrajectoryDataset(store)
    assert data["observations_camera"].shape == (STEPS, 4, *CAMERA)
    assert len(np.unique(data["observations_camera"][:, 0, 0, 0, 0])) > STEPS / 2
    assert ("observations" in data) == sees_flat_rows
    assert data["actions"].shape == (STEPS, 4, ACTIONS)
    assert not [name for name in data if "unread" in name or "critic" in name]


def test_the_replay_is_right(
    recorded: tuple[str, str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    store, checkpoint, _ = recorded
    assert main(["verify", store, "--checkpoint", checkpoint]) == 0
    said = capsys.readouterr().out
    assert f"ok, {STEPS * 4} valid rows" in said
    assert "of mean 0.0e+00" in said


def test_groups_may_be_named_with_their_axes(
    recorded: tuple[str, str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, checkpoint, sees_flat_rows = recorded
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(seeing_config(sees_flat_rows)))
    flat = ["policy=6"] if sees_flat_rows else []
    command = ["verify", store, "--checkpoint", checkpoint, "--runner-cfg", str(path), "--groups"]
    assert main([*command, *flat, "camera=3x16x12"]) == 0
    assert main([*command, *flat, "camera=3x12x16"]) == 2
    assert "observations_camera: expected rows of (3, 12, 16)" in capsys.readouterr().err
