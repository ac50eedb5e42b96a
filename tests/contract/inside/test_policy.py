"""A real rsl_rl policy of the paired version on Isaac Lab's wrapper, from checkpoint to replay."""

from __future__ import annotations

from pathlib import Path

import torch
from rsl_rl.runners import OnPolicyRunner

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.rsl_rl.load import load_policy, quiet
from mosaic_collect.replay.check import replay_check
from tests.adapters.inside.toy import config
from tests.contract.inside.session import ORIGIN, toy_env
from tests.contract.inside.toy import write_motions
from tests.isaaclab import collect_motions


def runner_cfg() -> dict[str, object]:
    """The task has no critic group: the critic sees what the policy sees."""
    found = config()
    if "obs_groups" in found:
        found["obs_groups"] = {"policy": ["policy"], "critic": ["policy"]}
    return found


def test_collect_and_replay(tmp_path: Path) -> None:
    motions = write_motions(tmp_path / "motions", [6, 4, 5])
    checkpoint, store = str(tmp_path / "model.pt"), tmp_path / "expert.zarr"
    with quiet():
        runner = OnPolicyRunner(toy_env(motions, 2), runner_cfg(), None, "cpu")
        runner.disable_logs, runner.logger_type = True, "none"
        runner.learn(1)
        runner.save(checkpoint)
    env = toy_env(motions, 2)
    policy = load_policy(env, runner_cfg(), checkpoint)
    collect_motions(env, policy, store, ORIGIN, buffer_mb=1)
    again = load_policy(toy_env(motions, 2), runner_cfg(), checkpoint)
    report = replay_check(store, again, {"policy": 5})
    assert report.ok
    assert report.largest_mean == report.largest_sigma == 0.0
    assert report.rows == TrajectoryDataset(store).num_valid
    with torch.no_grad():
        runner.alg.policy.std += 0.1
    runner.save(checkpoint)
    other = load_policy(toy_env(motions, 2), runner_cfg(), checkpoint)
    assert replay_check(store, other, {"policy": 5}).rows_off == report.rows
