"""Motion files looked at whole, and all bad ones of a folder told at once."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.collection.fitting import check_robot, fit_motions
from mosaic_collect.collection.motions import find_motions, read_motion
from mosaic_collect.errors import InputError
from mosaic_collect.store.robot import Robot
from tests.helpers import motion_arrays

T, J, B = 6, 3, 4
JOINTS, BODIES = ["hip", "knee", "foot"], ["base", "thigh", "shank", "sole"]


def arrays(**changes: Any) -> dict[str, Any]:
    whole = motion_arrays(np.arange(T * J).reshape(T, J), bodies=B, fps=30.0)
    return {k: v for k, v in {**whole, **changes}.items() if v is not None}


def with_value(key: str, value: float) -> dict[str, Any]:
    changed = arrays()
    changed[key][2, 1] = value
    return changed


def written(path: Path, content: dict[str, Any], save: Any = np.savez) -> str:
    save(path, **content)
    return str(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_whole_one(tmp_path: Path, save: Any, dtype: str) -> None:
    content = {k: v if k == "fps" else v.astype(dtype) for k, v in arrays().items()}
    motion, problems = read_motion(written(tmp_path / "m.npz", content, save))
    assert (motion.frames, motion.joints, motion.bodies, motion.fps) == (T, J, B, 30.0)
    assert (motion.joint_names, motion.body_names, problems) == (None, None, [])


def test_one_that_tells_names_and_no_rate(tmp_path: Path) -> None:
    named = arrays(fps=None, joint_names=np.array(JOINTS), body_names=np.array(BODIES, "S"))
    motion, _ = read_motion(written(tmp_path / "m.npz", named))
    names = (motion.joint_names, motion.body_names)
    assert (motion.fps, *names) == (None, tuple(JOINTS), tuple(BODIES))


def test_names_that_were_pickled_are_not_read(tmp_path: Path) -> None:
    pickled = arrays(joint_names=np.array(JOINTS, dtype=object))
    contents, problems = read_motion(written(tmp_path / "m.npz", pickled))
    assert (problems, contents and contents.joint_names) == ([], None)


NO_UNIT = (
    "body_quat_w: expected quaternions of length 1, got others in {} frames, {} of body {} in "
    "frame {} the first"
)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bodies shorter than joints": (
        {k: v[:-2] if k.startswith("body") else v for k, v in arrays().items()},
        f"body_pos_w: expected ({T}, {B}, 3), got ({T - 2}, {B}, 3)",
    ),
    "a key missing": (arrays(joint_vel=None), "joint_vel: expected an array, got none"),
    "no joints": (arrays(joint_pos=None), "joint_pos: expected an array, got none"),
    "velocities of other joints": (
        arrays(joint_vel=np.zeros((T, J - 1))),
        f"joint_vel: expected ({T}, {J}), got ({T}, {J - 1})",
    ),
    "quaternions of three": (
        arrays(body_quat_w=np.zeros((T, B, 3))),
        f"body_quat_w: expected ({T}, {B}, 4), got ({T}, {B}, 3)",
    ),
    "an axis missing": (arrays(joint_pos=np.zeros(T)), f"joint_pos: expected ({T}, J), got ({T},)"),
    "whole numbers": (
        arrays(joint_pos=np.zeros((T, J), np.int64)),
        "joint_pos: expected floats, got int64",
    ),
    "another byte order": (
        arrays(joint_pos=np.zeros((T, J), ">f4")),
        "joint_pos: expected floats, got >f4",
    ),
    "objects": (
        arrays(joint_pos=np.full((T, J), None)),
        "joint_pos: expected floats, got object",
    ),
    "not a number": (
        with_value("body_quat_w", np.nan),
        "body_quat_w: expected finite numbers, got others in 1 frames, 2 the first",
    ),
    "quaternions of zeros": (
        arrays(body_quat_w=np.zeros((T, B, 4))),
        NO_UNIT.format(T, 0, 0, 0),
    ),
    "a quaternion that is none": (
        with_value("body_quat_w", 0.75),
        NO_UNIT.format(1, 1.5, 1, 2),
    ),
    "beyond float32": (
        arrays(joint_pos=np.full((T, J), 1e300)),
        f"joint_pos: expected finite numbers, got others in {T} frames, 0 the first",
    ),
    "no frames": (
        {k: v[:0] if k != "fps" else v for k, v in arrays().items()},
        "joint_pos: expected 2 frames or more, got 0",
    ),
    "one frame": (
        {k: v[:1] if k != "fps" else v for k, v in arrays().items()},
        "joint_pos: expected 2 frames or more, got 1",
    ),
    "two rates": (arrays(fps=np.array([30.0, 50.0])), "fps: expected one number, got float64 (2,)"),
    "no rate at all": (arrays(fps=np.array([0])), "fps: expected a number above 0, got 0"),
    "names of others": (arrays(joint_names=np.array(["a"])), f"joint_names: expected ({J},), got"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_one_is_told_with_key_expected_and_got(tmp_path: Path, kind: str) -> None:
    content, words = BAD[kind]
    path = written(tmp_path / "bad.npz", content)
    contents, problems = read_motion(path)
    assert contents is None
    assert any(p.startswith(words) for p in problems), problems
    with pytest.raises(InputError, match=r"bad\.npz: "):
        find_motions(path)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"joint_vel.npy") + 200
    data[at] ^= 1
    path.write_bytes(data)


def of_text(path: Path) -> None:
    path.write_text("0.0, 0.1, 0.2\n")


def promising_too_much(path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("joint_pos.npy", head.getvalue())


def one_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


HARMS = [torn, flipped, of_text, promising_too_much, one_array, os.remove]


@pytest.mark.parametrize("harm", HARMS)
def test_a_broken_one(tmp_path: Path, harm: Any) -> None:
    path = tmp_path / "bad.npz"
    written(path, arrays())
    harm(path)
    contents, (problem, *_) = read_motion(str(path))
    assert contents is None
    assert problem.startswith("expected an .npz with joint_pos, joint_vel,")


def test_a_csv_is_told_what_makes_a_motion_of_it(tmp_path: Path) -> None:
    (tmp_path / "walk.csv").write_text("0, 0, 0.8\n")
    with pytest.raises(InputError, match=r"walk\.csv: .* csv_to_npz"):
        find_motions(str(tmp_path / "walk.csv"))


def test_quaternions_of_few_digits_are_taken(tmp_path: Path) -> None:
    turned = np.random.default_rng(0).normal(size=(T, B, 4))
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
    for digits in (np.float16, np.float32):
        path = written(tmp_path / "m.npz", arrays(body_quat_w=turned.astype(digits)))
        assert read_motion(path)[1] == []


def test_all_bad_ones_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    written(tmp_path / "good.npz", arrays())
    for place, (content, _) in enumerate(BAD.values()):
        written(tmp_path / f"bad{place:02}.npz", content)
    of_text(tmp_path / "text.npz")
    with pytest.raises(InputError) as told:
        find_motions(str(tmp_path))
    head, *files = str(told.value).split("\n")
    assert head == f"motion: {len(BAD) + 1} of {len(BAD) + 2} files cannot be played"
    assert [line.split(":")[0].split("/")[-1] for line in files] == [
        *(f"bad{place:02}.npz" for place in range(len(BAD))),
        "text.npz",
    ]


class TestRobot:
    def test_its_own(self, tmp_path: Path) -> None:
        named = arrays(joint_names=np.array(JOINTS), body_names=np.array(BODIES))
        for name, content in (("named", named), ("plain", arrays())):
            written(tmp_path / f"{name}.npz", content)
        check_robot(find_motions(str(tmp_path)), Robot(joint_names=JOINTS, body_names=BODIES))

    def test_robot_and_rate_are_told_at_once(self, tmp_path: Path) -> None:
        few = {k: v[:, :2] if k.startswith("body") else v for k, v in arrays().items()}
        for name, content in (("a", few), ("b", {**few, "fps": 50.0}), ("c", arrays())):
            written(tmp_path / f"{name}.npz", content)
        motions, robot = find_motions(str(tmp_path)), Robot(joint_names=JOINTS, body_names=BODIES)
        with pytest.raises(InputError) as told:
            fit_motions(motions, 50.0, robot=robot)
        head, a, b, c = str(told.value).split("\n")
        assert head.startswith("motion: 3 of 3 files are of another robot or are not of the task's")
        assert a.endswith("4 bodies, got 2; fps: expected 50, got 30, played 1.67 times as fast")
        assert b.endswith("b.npz: body_pos_w: expected the robot's 4 bodies, got 2")
        assert c.endswith("c.npz: fps: expected 50, got 30, played 1.67 times as fast")
        assert len(fit_motions(motions[2:], 50.0, robot=robot, allow_fps=True)) == 1

    def test_others_are_told_at_once(self, tmp_path: Path) -> None:
        few = {k: v[:, :2] if k.startswith("body") else v for k, v in arrays().items()}
        order = arrays(joint_names=np.array(JOINTS[::-1]))
        names = arrays(body_names=np.array(["base", "leg", "shank", "sole"]))
        for name, content in (("a", few), ("b", order), ("c", names), ("d", arrays())):
            written(tmp_path / f"{name}.npz", content)
        with pytest.raises(InputError) as told:
            check_robot(find_motions(str(tmp_path)), Robot(joint_names=JOINTS, body_names=BODIES))
        head, a, b, c = str(told.value).split("\n")
        assert head == "motion: 3 of 4 files are of another robot"
        assert a.endswith("a.npz: body_pos_w: expected the robot's 4 bodies, got 2")
        assert b.endswith("expected 'hip' at place 0, got 'foot' (the robot's, in another order)")
        assert c.endswith("c.npz: body_pos_w: expected 'thigh' at place 1, got 'leg'")
