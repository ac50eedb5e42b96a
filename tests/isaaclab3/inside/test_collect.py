"""A collection of the expert, with real physics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.cfg import prepare_env_cfg, prepare_motion_cfg
from mosaic_collect.adapters.isaaclab.collect import MotionOptions, collect_motions
from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.collection.motions import MotionQueue
from mosaic_collect.collection.origin import Origin
from mosaic_collect.demo import isaaclab as g1
from mosaic_collect.demo.isaaclab.motions import write_motions
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.schema import ENDED
from tests.isaaclab3.inside.session import configs, opened

NUM_ENVS = 4
LENGTHS = [12, 9, 15, 10, 8, 11, 9, 14, 10]  # so short that nobody has the time to fall
ORIGIN = Origin(
    simulator="isaaclab",
    task=g1.TEACHER,
    checkpoint={"path": g1.EXPERT.name, "sha256": "0"},
    runner_cfg={},
    observations={},
)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[MotionQueue, TrajectoryDataset]:
    """Nine motions in four environments."""
    folder: Path = tmp_path_factory.mktemp("collected")
    motions = write_motions(folder / "motions", LENGTHS)
    env_cfg, agent_cfg = configs(g1.TEACHER)
    prepare_motion_cfg(env_cfg.commands.motion, motions)
    prepare_env_cfg(env_cfg, NUM_ENVS)
    with opened(env_cfg, motions, NUM_ENVS) as env:
        policy, store = load_policy(env, agent_cfg, g1.EXPERT), folder / "expert.zarr"
        queue = collect_motions(env, policy, store, MotionOptions(), ORIGIN, buffer_mb=1)
    return queue, TrajectoryDataset(store)


def test_no_trajectory_is_lost_to_the_explicit_reset(
    collected: tuple[MotionQueue, TrajectoryDataset],
) -> None:
    """Behind it a command that nobody computed ends all episodes: ``test_g1`` shows it."""
    queue, data = collected
    assert (queue.completed, queue.fell) == (len(LENGTHS), 0)
    assert data.num_valid == sum(LENGTHS) - len(LENGTHS)  # all frames but 0, as in training
    assert verify_store(data.path).ok


def test_trajectories_go_from_frame_1_to_their_motions_last(
    collected: tuple[MotionQueue, TrajectoryDataset],
) -> None:
    _, data = collected
    ids, valid = data.read("trajectory_id"), data.read("valid_mask")
    motions, frames = data.read("motion_id"), data.read("motion_frame")
    how = data.read("trajectory_end")
    assert valid[0].all()
    for trajectory in np.unique(ids[valid]):
        rows = (ids == trajectory) & valid
        (motion,) = set(motions[rows].tolist())
        assert frames[rows].tolist() == list(range(1, LENGTHS[motion]))
        assert (how[rows] == ENDED).sum() == 1
