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
from rsl_rl.runners import OnPolicyRunner

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.load import load_policy, quiet
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.adapters.rsl_rl.simulation import ManagedSimulation
from mosaic_collect.cli import main
from mosaic_collect.collection.record import record
from tests.adapters.inside.toy import ACTIONS, GENERATION, POLICY_DIM, ToyEnv, config

pytestmark = pytest.mark.skipif(GENERATION != 5, reason="networks for images come with rsl_rl 4")

CAMERA, STEPS = (3, 16, 12), 20


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
    folder = tmp_path_factory.mktemp("camera")
    checkpoint, store = str(folder / "model.pt"), str(folder / "expert.zarr")
    torch.manual_seed(0)
    with quiet():
        runner = OnPolicyRunner(SeeingEnv(), seeing_config(request.param), None, "cpu")
        runner.disable_logs, runner.logger_type = True, "none"
        runner.current_learning_iteration = 1
        runner.learn(1)
        runner.save(checkpoint)
    env, told = SeeingEnv(), seeing_config(request.param)
    policy = load_policy(env, told, checkpoint)
    origin = {"simulator": "toy", "task": "spot", "runner_cfg": json_safe(told)}
    simulation = ManagedSimulation(env)
    record(simulation, policy, store, origin, STEPS, buffer_mb=1)
    return store, checkpoint, request.param


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


def test_a_changed_pixel_is_found(
    recorded: tuple[str, str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, checkpoint, _ = recorded
    data, copy = TrajectoryDataset(store), str(tmp_path / "other.zarr")
    with TrajectoryWriter(copy, data.schema, 4, metadata=data.metadata, buffer_mb=1) as writer:
        for step in range(STEPS):
            rows = {name: data.read(name, step, step + 1)[0] for name in data.schema.names}
            if step == 7:
                rows["observations_camera"][2, 1, 4:12] += 0.5
            writer.add_step(**rows)
    assert main(["verify", copy, "--checkpoint", checkpoint]) == 1
    said = capsys.readouterr().out
    assert f"1 OF {STEPS * 4} valid ROWS OFF, the first at step 7, env 2" in said
