"""The robot of a recording: given, checked, read, shown, compared, and the names of columns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    Field,
    Robot,
    Schema,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
    summarize,
)
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.look.inspect import summary_text
from mosaic_collect.reading.terms import column_names

SCHEMA = Schema.mosaic(obs_dim=7, action_dim=2, extra=(Field("phase"), Field("image", dim=(1, 2))))
TERMS = {
    "observations": [
        {"name": "joint_pos", "dim": 2, "frames": 2},
        {"name": "ankle_vel", "dim": 2, "columns": ["left", "right"]},
        {"name": "height", "dim": 1},
    ]
}
ROBOT = Robot(
    name="biped",
    joint_names=("hip", "knee"),
    action_names=("knee", "hip"),
    action_scale=np.array([0.5, 0.25]),
    default_joint_pos=[0, -0.5],
    control_dt=0.02,
    sim_dt=0.005,
    units={"joint_pos": "rad", "actions": "1"},
)


def write(store: str, steps: int = 2, **options: Any) -> None:
    with TrajectoryWriter(store, SCHEMA, 3, buffer_mb=16, **options) as writer:
        for _ in range(steps):
            writer.add_step(
                observations=np.zeros((3, 7)), actions=np.ones((3, 2)), phase=np.zeros(3),
                image=np.zeros((3, 1, 2)),
            )  # fmt: skip


@pytest.mark.parametrize("given", [ROBOT, ROBOT.to_metadata()])
def test_a_robot_is_stored_and_shown(store: str, given: Any) -> None:
    """And names the columns."""
    write(store, robot=given, metadata={"terms": TERMS})
    dataset = TrajectoryDataset(store)
    assert dataset.robot == Robot.from_metadata(dataset.metadata) == ROBOT
    assert dataset.robot.action_scale == (0.5, 0.25)
    assert dataset.metadata["robot"] == ROBOT.to_metadata()
    told = "biped: 2 joints, 2 actions, 0.02 s per step (50 Hz), simulated in steps of 0.005 s"
    assert ("robot", told) in summarize(store).facts
    assert told in summary_text(summarize(store))
    assert column_names(dataset, "observations") == [
        *("joint_pos[hip]@-1", "joint_pos[knee]@-1", "joint_pos[hip]", "joint_pos[knee]"),
        *("ankle_vel[left]", "ankle_vel[right]", "height"),
    ]
    units = {term.name: term.unit for term in dataset.terms["observations"]}
    assert units == {"joint_pos": "rad", "ankle_vel": "", "height": ""}
    assert column_names(dataset.view, "actions") == ["actions[knee]", "actions[hip]"]
    assert column_names(dataset.state, "phase") == ["phase"]
    assert column_names(dataset, "image") == ["image[0]", "image[1]"]


def test_a_text_is_a_name(store: str) -> None:
    write(store, metadata={"robot": "G1"})
    assert TrajectoryDataset(store).robot == Robot(name="G1")
    assert TrajectoryDataset(store).metadata == {"robot": "G1"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, r"robot: expected name, joint_names, .*, got \[3\]"),
        ({"joints": ["a"]}, r"robot: expected name, joint_names, .*, got \['joints'\]"),
        ({"name": 3}, "robot: name: expected a text, got 3"),
        ({"joint_names": "hip"}, "joint_names: expected names, got hip"),
        ({"joint_names": ["hip", 3]}, "joint_names: expected names"),
        ({"action_names": ["hip", "hip"]}, "action_names: expected each name once"),
        ({"action_names": ["hip"]}, "robot: action_names: expected 2 for actions, got 1"),
        ({"action_scale": [True, 1.0]}, "action_scale: expected numbers"),
        ({"action_offset": [float("nan")]}, "action_offset: expected numbers"),
        (
            {"joint_names": ["a", "b"], "default_joint_pos": [0.0]},
            "default_joint_pos: expected 2 as joint_names, got 1",
        ),
        ({"control_dt": 0}, "control_dt: expected seconds above 0, got 0"),
        ({"sim_dt": -1.0, "name": 3}, "name: expected a text.*; robot: sim_dt: expected seconds"),
        ({"units": ["rad"]}, "units: expected a unit by name"),
        (
            {"units": {"joint_pos": "rad", "joint_poss": "rad"}},
            r"units: expected names of fields or terms \(observations, .*joint_pos.*joint_poss'\]",
        ),
    ],
)
@pytest.mark.parametrize("by", ["robot", "metadata"])
def test_a_bad_robot_is_refused_before_anything_is_written(
    store: str, given: Any, words: str, by: str
) -> None:
    options = {"robot": given} if by == "robot" else {"metadata": {"robot": given}}
    if by == "metadata" and isinstance(given, dict) and "action_offset" in given:
        words = "NaN|not JSON|nan"  # which JSON itself cannot hold
    options["metadata"] = {"terms": TERMS, **options.get("metadata", {})}
    with pytest.raises(InputError, match=words):
        write(store, **options)
    assert not os.path.exists(store)


def test_a_resume_with_another_robot_is_refused(store: str) -> None:
    write(store, robot=ROBOT, metadata={"terms": TERMS})
    write(store, resume=True)
    write(store, resume=True, robot=ROBOT)
    with pytest.raises(StoreMismatchError, match=r"robot: expected \{.*'biped'.*got .*'quadruped'"):
        write(store, resume=True, robot=Robot(name="quadruped"))
    assert (TrajectoryDataset(store).num_steps, TrajectoryDataset(store).robot) == (6, ROBOT)


def test_stores_of_two_robots_are_not_merged(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{n}.zarr") for n in range(2)]
    for n, path in enumerate(paths):
        write(path, robot={"control_dt": 0.02 * (1 + n)})
    with pytest.raises(StoreMismatchError, match=r"robot: .*0\.02.*allow_different='robot'"):
        export_npy(paths, str(tmp_path / "all.npy"))


def test_no_robot_and_damaged_metadata_are_shown_as_such(store: str) -> None:
    write(store)
    assert TrajectoryDataset(store).robot is None
    assert column_names(TrajectoryDataset(store), "actions") == ["actions[0]", "actions[1]"]
    with TrajectoryWriter(store, resume=True) as writer:
        writer.update_metadata(robot={"control_dt": "fast"})
    with pytest.raises(InputError, match="control_dt: expected seconds above 0, got fast"):
        _ = TrajectoryDataset(store).robot
    assert dict(summarize(store).facts)["robot"].startswith("robot: control_dt: expected")
    assert column_names(TrajectoryDataset(store), "actions") == ["actions[0]", "actions[1]"]
