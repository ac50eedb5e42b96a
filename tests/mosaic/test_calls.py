"""The calls, names and values that MOSAIC's own script and README use, on this package's classes.

Upstream's script itself is run in ``tests/contract``, where a checkout of MOSAIC is named.
"""

from __future__ import annotations

import inspect
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

import mosaic_collect
from mosaic_collect import ExpertTrajectoryCollector, StudentObsBuilder
from mosaic_collect.errors import CorruptExportError
from tests.adapters.hostile import Author
from tests.mosaic.upstream import ACT, OBS, STUDENT, N, ours

_NEEDED = inspect.Parameter.empty

#: Upstream's parameters in their order, with its defaults.
SIGNATURES: dict[Any, dict[str, Any]] = {
    ExpertTrajectoryCollector: {
        "obs_dim": _NEEDED,
        "action_dim": _NEEDED,
        "student_obs_dim": None,
        "max_trajectories": 1000,
        "device": "cpu",
    },
    ExpertTrajectoryCollector.add_step: {
        "self": _NEEDED,
        "observations": _NEEDED,
        "actions": _NEEDED,
        "action_mean": None,
        "action_sigma": None,
        "student_observations": None,
        "valid_mask": None,
    },
    ExpertTrajectoryCollector.mark_trajectory_end: {"self": _NEEDED, "count": 1},
    ExpertTrajectoryCollector.save: {"self": _NEEDED, "save_path": _NEEDED},
    ExpertTrajectoryCollector.load: {"load_path": _NEEDED, "device": "cpu"},
    ExpertTrajectoryCollector.clear: {"self": _NEEDED},
    ExpertTrajectoryCollector.get_statistics: {"self": _NEEDED},
    # Upstream's device is cuda:0 whatever the environment's is; None means the environment's.
    StudentObsBuilder: {"env": _NEEDED, "obs_keys": _NEEDED, "history_length": 0, "device": None},
    StudentObsBuilder.get_observation: {"self": _NEEDED, "obs_dict": _NEEDED},
    StudentObsBuilder.update_history: {"self": _NEEDED, "obs_dict": _NEEDED},
    StudentObsBuilder.reset_history: {"self": _NEEDED, "env_ids": _NEEDED},
    mosaic_collect.create_student_obs_builder_from_env_cfg: {
        "env": _NEEDED,
        "student_obs_cfg_name": _NEEDED,
        "device": None,
    },
}


@pytest.mark.parametrize("call", SIGNATURES, ids=lambda call: call.__qualname__)
def test_upstreams_parameters_come_first_with_their_defaults(call: Any) -> None:
    wanted, ours = SIGNATURES[call], list(inspect.signature(call).parameters.values())
    # A field may have the name self, so self is no keyword; nobody gives it by one.
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    positional = [p for p in ours if p.kind in kinds]
    assert [p.name for p in ours if p.kind is p.POSITIONAL_ONLY] in ([], ["self"])
    assert {p.name: p.default for p in positional[: len(wanted)]} == wanted
    assert [p.name for p in positional[: len(wanted)]] == list(wanted)
    assert all(p.default is not _NEEDED for p in positional[len(wanted) :])


@pytest.mark.parametrize("student_obs_dim", [None, STUDENT])
def test_the_scripts_calls_from_first_to_last(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, student_obs_dim: int | None
) -> None:
    """No store is named, a student is handed over always, ends are counted, a name is a str."""
    monkeypatch.chdir(tmp_path)
    collector = ExpertTrajectoryCollector(
        obs_dim=OBS,
        action_dim=ACT,
        student_obs_dim=student_obs_dim,
        max_trajectories=6,
        device="cuda:0",
    )
    counts, trajectories, steps = torch.zeros(N, dtype=torch.long), 0, 0
    with torch.inference_mode():
        while trajectories < 6:
            collector.add_step(
                observations=torch.full((N, OBS), float(steps)),
                actions=torch.full((N, ACT), float(steps)),
                action_mean=torch.zeros(N, ACT).detach(),
                action_sigma=torch.ones(1, ACT).expand(N, ACT),  # as a parameter's view
                student_observations=torch.full((N, student_obs_dim or OBS), float(steps)),
            )
            steps, counts = steps + 1, counts + 1
            if (over := counts >= 3).any():
                collector.mark_trajectory_end(count=int(over.sum()))
                trajectories += int(over.sum())
                counts[over] = 0
    told = collector.get_statistics()
    assert [f"  {key}: {value}" for key, value in told.items() if key != "memory_usage_mb"] == [
        "  num_trajectories: 8",
        f"  num_steps: {6 * N}",
        f"  avg_steps_per_trajectory: {6 * N / 8}",
        f"  obs_dim: {OBS}",
        f"  student_obs_dim: {student_obs_dim}",
        f"  action_dim: {ACT}",
    ]
    pathlib.Path("out").mkdir(parents=True, exist_ok=True)
    assert collector.save("out/expert.npy") is None
    collector.close()
    loaded = ExpertTrajectoryCollector.load("out/expert.npy", device="cpu")
    assert loaded["observations"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert ("student_observations" in loaded) is (student_obs_dim is not None)
    assert loaded["metadata"]["num_trajectories"] == 8


class DeviceCount:
    """A tensor of one number on a GPU: ``int`` takes it, and an index it is not."""

    def __int__(self) -> int:
        return N


@pytest.mark.parametrize("count", [N, np.int64(N), torch.tensor(N), DeviceCount()])
def test_a_count_may_be_any_number(tmp_path: pathlib.Path, count: Any) -> None:
    collector = ours(tmp_path)
    collector.add_step(torch.zeros(N, OBS), torch.zeros(N, ACT))
    collector.mark_trajectory_end(count=count)
    assert collector.num_trajectories == N
    assert type(collector.num_trajectories) is int
    collector.close()
    assert mosaic_collect.TrajectoryDataset(collector.store).num_ended == N


def test_the_lists_that_are_no_more_are_told(tmp_path: pathlib.Path) -> None:
    collector = ours(tmp_path)
    for name in ("data_buffer", "valid_masks"):
        assert not hasattr(collector, name)
        with pytest.raises(AttributeError, match=f"{name}: steps are in the store .*s.zarr"):
            getattr(collector, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        collector.nothing  # noqa: B018


def test_loading_a_dict_with_other_things_than_arrays_is_refused(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "e.npy", {"actions": [1.0], "metadata": {}}, allow_pickle=True)
    with pytest.raises(CorruptExportError, match="got others for actions"):
        ExpertTrajectoryCollector.load(tmp_path / "e.npy")


def test_loading_runs_no_code(tmp_path: pathlib.Path) -> None:
    mark = str(tmp_path / "ran")
    content = {"actions": np.zeros((1, N, ACT)), "metadata": {"author": Author(mark)}}
    np.save(tmp_path / "hub.npy", content, allow_pickle=True)
    with pytest.raises(CorruptExportError, match=r"would call posix\.mkdir"):
        ExpertTrajectoryCollector.load(tmp_path / "hub.npy")
    assert not os.path.exists(mark)
