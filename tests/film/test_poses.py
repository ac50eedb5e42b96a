"""What of a trajectory can be shown, and what is said of the rest; without a simulator."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.collection.motions import read_motions
from mosaic_collect.errors import InputError
from mosaic_collect.film.render import Poses, trajectory_poses
from mosaic_collect.store.schema import Field, Schema
from tests import helpers

FRAMES, JOINTS, NQ = 12, 2, 10
#: The robot's base behind another body's position, its joints in another order than a motion's.
LAYOUT = (slice(1, 8), [9, 8])
MOTION = [Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32")]
STATES = [Field(name="qpos", dim=NQ), Field(name="env_origin", dim=3)]


def write_motion(path: Path, frames: int = FRAMES) -> None:
    arrays = helpers.motion_arrays(np.arange(frames * JOINTS).reshape(frames, JOINTS) / 100)
    arrays["body_pos_w"] += np.arange(frames, dtype="f")[:, None, None]
    np.savez(path, **arrays)


def recorded(folder: Path, states: bool = True, **changes: Any) -> TrajectoryDataset:
    """Four environments that follow one motion from its frame 3 on, for 5 steps."""
    motion = folder / "walk.npz"
    if not motion.exists():
        write_motion(motion)
    (told,) = read_motions([str(motion)])
    schema = Schema.mosaic(3, 2, extra=[*MOTION, *(STATES if states else [])])
    metadata = {"motions": [replace(told, **changes).entry()]}
    path = str(folder / "s.zarr")
    with helpers.open_writer(path, 4, schema, metadata=metadata) as writer:
        for step in range(5):
            row = helpers.rows(step, 4, schema)
            row["motion_id"][:] = 0
            row["motion_frame"][:] = 3 + step
            if states:
                row["env_origin"][:] = np.arange(4)[:, None] * [10.0, 1.0, 0.0]
            writer.add_step(**row)
    return TrajectoryDataset(path)


def poses(data: TrajectoryDataset, motion: str | None = None, **scene: Any) -> Poses:
    scene = {"nq": NQ, "layout": LAYOUT, **scene}
    return trajectory_poses(data.metadata, data.trajectory(2), **scene, motion=motion)


def test_the_robot_is_as_recorded_and_the_reference_as_played(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    found = poses(data)
    assert found.notes == ()
    np.testing.assert_array_equal(found.robot, data.read("qpos")[:, 2])
    motion = np.load(tmp_path / "walk.npz")
    reference = found.reference
    assert reference is not None
    expected = motion["body_pos_w"][3:8, 0] + np.array([20.0, 2.0, 0.0])
    np.testing.assert_allclose(reference[:, 1:4], expected)
    np.testing.assert_array_equal(reference[:, 4:8], motion["body_quat_w"][3:8, 0])
    np.testing.assert_array_equal(reference[:, [9, 8]], motion["joint_pos"][3:8])
    assert not reference[:, 0].any()


def test_without_states_the_reference_alone(tmp_path: Path) -> None:
    found = poses(recorded(tmp_path, states=False))
    assert found.robot is None
    assert found.reference is not None
    assert found.notes == ("the robot is not shown: its states were not recorded",)


def test_a_motion_that_moved_is_found_by_its_content(tmp_path: Path) -> None:
    data = recorded(tmp_path)
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "walk.npz", tmp_path / "moved" / "x.npz")
    found = poses(data)
    assert found.reference is None
    assert "walk.npz is gone or another file; motion= says where it lies" in found.notes[0]
    assert poses(data, str(tmp_path / "moved")).notes == ()
    write_motion(tmp_path / "walk.npz", frames=FRAMES + 1)
    assert "another file" in poses(data).notes[0]
    assert "another file" in poses(data, str(tmp_path / "walk.npz")).notes[0]


def test_a_resampled_motion_is_resampled_again(tmp_path: Path) -> None:
    found = poses(recorded(tmp_path, resampled="linear", played_fps=100.0, frames=23))
    motion = np.load(tmp_path / "walk.npz")["joint_pos"]
    reference = found.reference
    assert reference is not None
    between = (motion[1] + motion[2]) / 2  # frame 3 of those at twice the rate
    np.testing.assert_allclose(reference[0, [9, 8]], between, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "layout", "why"),
    [
        (FRAMES, None, "not of this task's robot"),
        (FRAMES, (slice(1, 8), [9]), "not of this task's robot"),
        (6, LAYOUT, "shorter than the frames"),
    ],
)
def test_a_motion_that_does_not_fit_is_not_shown(
    tmp_path: Path, frames: int, layout: Any, why: str
) -> None:
    write_motion(tmp_path / "walk.npz", frames=frames)
    (note,) = poses(recorded(tmp_path), layout=layout).notes
    assert why in note


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qpos: expected 36 as the task's scene has, got 10"):
        poses(recorded(tmp_path), nq=36)


def test_nothing_to_show(tmp_path: Path) -> None:
    data = recorded(tmp_path, states=False)
    (tmp_path / "walk.npz").unlink()
    with pytest.raises(InputError, match=r"trajectory 2: the robot is not shown: .* is gone"):
        poses(data)


FORM = "the metadata name motions in another form"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "the store tells of no motion that it followed"),
        ({"motions": ["walk.npz"]}, FORM),
        ({"motions": [{"file": "walk.npz"}]}, FORM),
        ({"motions": "walk.npz"}, FORM),
        ({"motions": 5}, FORM),
        ({"motions": [{"path": 1, "sha256": 2}]}, FORM),
    ],
)
def test_metadata_without_usable_motions(tmp_path: Path, told: Any, why: str) -> None:
    (note,) = trajectory_poses(told, recorded(tmp_path).trajectory(0), NQ, LAYOUT, None).notes
    assert note.startswith(f"the reference is not shown: {why}")


def test_names_that_were_pickled_are_left_out(tmp_path: Path) -> None:
    write_motion(tmp_path / "walk.npz")
    with np.load(tmp_path / "walk.npz") as plain:
        names = np.array(["hip", "knee"], object)
        np.savez(tmp_path / "walk.npz", joint_names=names, **plain)
    assert poses(recorded(tmp_path)).notes == ()
