"""``scripts/collect_expert_trajectories.py`` from its flags to its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.rsl_rl.checkpoint import file_identity
from mosaic_collect.cli import main
from tests.adapters.hostile import Author
from tests.contract.inside.toy_tasks import BLIND, CLIP, STUDENT, TEACHER, AgentCfg


def script_with(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.contract.inside.run_script", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def script(work: Path, output: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return script_with(
        *("--headless", "--task", TEACHER, "--motion", str(work / "motions")),
        *("--checkpoint_path", str(work / "model.pt"), "--output_path", str(work / output)),
        *("--tasks_module", "tests.contract.inside.toy_tasks", "--buffer_mb", "1", *flags),
    )


def ok(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_run_that_was_stopped_goes_on_and_exports(work: Path) -> None:
    flags = ("--num_envs", "2", "--student_task", STUDENT, "--disable_student_noise", "--seed", "3")
    ok(script(work, "expert.npy", *flags, "--max_steps", "6"))
    first = TrajectoryDataset(work / "expert.zarr")
    assert first.num_steps == 6
    export = ("--layout", "compact", "--exclude_falls")
    out = ok(script(work, "expert.npy", *flags, "--resume", "True", *export))
    assert "expert.npy: 23 valid pairs, compact" in out
    assert "5 trajectories reached their motion's end, 0 failed" in out
    assert "app closed" in out
    data = TrajectoryDataset(work / "expert.zarr")
    assert data.status == "complete"
    assert sorted(set(data.read("motion_id")[data.read("valid_mask")].tolist())) == [0, 1, 2, 3, 4]
    assert data.schema["student_observations"].dim == 2 * 3
    told = data.metadata
    names = ("simulator", "task", "observations", "groups", "steps_per_env", "ranks", "seed")
    assert {name: told[name] for name in names} == {
        "simulator": "isaaclab",
        "task": TEACHER,
        "observations": {
            "student_task": STUDENT,
            "student_history": None,
            "student_noise": False,
        },
        "groups": {"policy": 5},
        "steps_per_env": 100,
        "ranks": [0, 1],
        "seed": 3,
    }
    assert told["checkpoint"] == file_identity(str(work / "model.pt"))
    content: dict[str, Any] = np.load(work / "expert.npy", allow_pickle=True).item()
    assert content["student_observations"].shape == (data.num_valid, 1, 6)
    refused = script(work, "expert.npy", *flags, "--resume", "--steps_per_env", "3")
    assert refused.returncode == 1
    assert "steps_per_env: expected 100, got 3" in refused.stderr


@pytest.fixture(scope="module")
def replayed(work: Path) -> str:
    """A store that the script wrote."""
    ok(script(work, "replayed.zarr", "--num_envs", "2", "--seed", "5"))
    return str(work / "replayed.zarr")


def verify(store: str, checkpoint: Path, *options: str) -> int:
    return main(["verify", store, "--checkpoint", str(checkpoint), *options])


def test_its_store_says_what_network_it_was(
    work: Path, replayed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(replayed, work / "model.pt") == 0
    valid = TrajectoryDataset(replayed).num_valid
    assert f"model.pt: ok, {valid} valid rows" in capsys.readouterr().out


def test_what_is_recorded_is_what_the_policy_said_not_what_the_wrapper_clipped(
    replayed: str,
) -> None:
    data = TrajectoryDataset(replayed)
    mean = data.read("action_mean")
    assert data.metadata["runner_cfg"]["clip_actions"] == CLIP
    assert (abs(mean) > CLIP).any()
    assert (data.read("actions") == mean).all()


def test_a_checkpoint_with_code_is_read_by_the_word_alone(work: Path, tmp_path: Path) -> None:
    mark, hub = tmp_path / "ran", tmp_path / "hub.pt"
    content = torch.load(work / "model.pt", weights_only=True)
    torch.save({**content, "infos": Author(str(mark))}, hub)
    flags = ("--checkpoint_path", str(hub), "--max_steps", "2", "--num_envs", "2")
    result = script(work, "hub.zarr", *flags)
    assert result.returncode == 1
    assert (
        "names posix.mkdir; if you know and trust who made it, --trust_checkpoint" in result.stderr
    )
    assert not mark.exists()
    assert not (work / "hub.zarr").exists()
    ok(script(work, "hub.zarr", *flags, "--trust_checkpoint"))
    assert mark.exists()


def test_a_config_as_isaac_labs_training_dumps_it(
    work: Path, replayed: str, tmp_path: Path
) -> None:
    pytest.importorskip("yaml")
    from isaaclab.utils.io import dump_yaml

    path = str(tmp_path / "params" / "agent.yaml")
    dump_yaml(path, AgentCfg())
    assert verify(replayed, work / "model.pt", "--runner-cfg", path) == 0
    wider = AgentCfg()
    wider.policy.actor_hidden_dims = [32, 16]
    dump_yaml(path, wider)
    assert verify(replayed, work / "model.pt", "--runner-cfg", path) == 2


def test_a_store_without_export_and_a_student_by_history(work: Path) -> None:
    out = ok(script(work, "plain.zarr", "--student_obs_history", "4", "--disable_terminations"))
    assert "5 trajectories" in out
    data = TrajectoryDataset(work / "plain.zarr")
    assert data.num_envs == 5  # 16 by default, but no more than there are motions
    assert data.schema["student_observations"].dim == 4 * 5
    assert not (work / "plain.npy").exists()


def test_11_a_student_that_cannot_be_observed_ends_the_run_and_says_why(work: Path) -> None:
    result = script(work, "blind.zarr", "--student_task", BLIND)
    assert result.returncode == 1
    assert f"{BLIND} has no observations.policy" in result.stderr
    assert "app closed" in result.stdout
    assert not (work / "blind.zarr").exists()


def test_help_shows_isaac_labs_flags_beside_ours() -> None:
    """Isaac Lab's launcher parses the command line before it lets ``--help`` be one."""
    out = ok(script_with("--help"))
    assert all(flag in out for flag in ("--student_obs_history", "--headless", "--kit_args"))
    assert "--headless \\\n        --task" in out  # the example can be copied
    assert "app closed" not in out


def test_4_flags_are_checked_before_a_simulator_starts(work: Path) -> None:
    result = script(work, "expert", "--num_envs", "0")
    assert result.returncode == 2
    assert "output_path: expected *.npy or *.zarr" in result.stderr
    assert "num_envs: expected at least 1" in result.stderr
    assert "app closed" not in result.stdout


def test_disturbed_samples_from_random_frames(work: Path) -> None:
    acting = ("--action_noise", "0.2", "--act_by", "sample", "--start", "random", "--seed", "3")
    ok(script(work, "disturbed.npy", "--num_envs", "2", *acting))
    data = TrajectoryDataset(work / "disturbed.zarr")
    assert data.metadata["acting"] == {"action_noise": 0.2, "act_by": "sample", "start": "random"}
    assert not np.array_equal(data.read("actions"), data.read("action_mean"))
    assert "action_noise" in data.fields
    assert verify(data.path, work / "model.pt") == 0
    refused = script(work, "disturbed.npy", "--num_envs", "2", "--resume")
    assert refused.returncode == 1
    assert "acting: expected {" in refused.stderr
