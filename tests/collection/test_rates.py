"""Motions at another rate than the task's steps: refused, allowed or resampled, and told."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.collection.fitting import (
    HOW,
    fit_folder,
    fit_motions,
    rate_notes,
    resample,
    resampled_frames,
)
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import Motion, find_motions, read_arrays, read_motion
from mosaic_collect.errors import InputError, StoreMismatchError
from tests.helpers import motion_arrays


def swing(frames: int, fps: float | None) -> dict[str, np.ndarray]:
    """Joints on a line, bodies turning about z by one rad a second, in whole seconds' time."""
    t = np.arange(frames) / (fps or 1.0)
    arrays = motion_arrays(np.stack([t, -2 * t], axis=1), fps=fps)
    arrays["joint_vel"] = np.tile(np.float32([1, -2]), (frames, 1))
    arrays["body_quat_w"][..., 0] = np.cos(t / 2)[:, None]
    arrays["body_quat_w"][..., 3] = np.sin(t / 2)[:, None]
    # One and the same orientation, told by the other sign in every other frame.
    arrays["body_quat_w"][1::2] *= -1
    arrays["body_ang_vel_w"][..., 2] = 1.0
    return arrays


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name, frames, fps in (("a", 7, 30.0), ("b", 11, 50.0), ("deep/c", 13, 120.0)):
        path = tmp_path / "motions" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **swing(frames, fps))
    return str(tmp_path / "motions")


class TestRefused:
    def test_all_that_are_of_another_rate(self, folder: str) -> None:
        with pytest.raises(InputError) as told:
            fit_motions(find_motions(folder), 50.0)
        head, a, c = str(told.value).split("\n")
        assert head.startswith("motion: 2 of 3 files are not of the task's 50 frames per second")
        assert "resample=True" in head
        assert "allow_fps=True" in head
        assert a.endswith("a.npz: fps: expected 50, got 30, played 1.67 times as fast")
        assert c.endswith("c.npz: fps: expected 50, got 120, played 0.417 times as fast")

    def test_one_alone_is_told_what_would_allow_it(self, folder: str) -> None:
        (motion,) = find_motions(os.path.join(folder, "a.npz"))
        with pytest.raises(InputError, match=r"a\.npz: fps: expected 50.*; resample=True .*"):
            fit_motions([motion], 50.0)

    @pytest.mark.parametrize("into", [False, True])
    def test_one_that_tells_no_rate(self, tmp_path: Path, into: bool) -> None:
        np.savez(tmp_path / "m.npz", **swing(5, None))
        motions = find_motions(str(tmp_path))
        with pytest.raises(InputError, match="fps: expected 50, got none"):
            fit_motions(motions, 50.0, into=str(tmp_path) if into else None)
        (motion,) = fit_motions(motions, 50.0, allow_fps=True)
        assert (motion.fps, motion.played_fps, motion.frames) == (None, 50.0, 5)

    @pytest.mark.parametrize("fps", [50.0, np.float32(1 / 0.02)])
    def test_what_floats_make_of_a_step_is_no_other_rate(self, fps: float) -> None:
        assert fit_motions([Motion("m.npz", "0", 5, 50.0)], fps)[0].played_fps == fps

    def test_television_is_another_rate(self) -> None:
        with pytest.raises(InputError, match=r"got 59\.94"):
            fit_motions([Motion("m.npz", "0", 5, 59.94)], 60.0)


def test_allowed_they_keep_their_frames_and_it_is_said(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        motions = fit_motions(find_motions(folder), 50.0, allow_fps=True)
    assert "2 of 3 files are played at another speed than their own" in caplog.text
    assert [(m.frames, m.fps, m.played_fps, m.file) for m in motions] == [
        (m.frames, m.fps, 50.0, m.path) for m in find_motions(folder)
    ]
    assert rate_notes(motions) == ["2 motions were played at another speed than their own"]


class TestResampled:
    def test_copies_of_those_that_need_one(self, folder: str, tmp_path: Path) -> None:
        motions = fit_motions(find_motions(folder), 50.0, into=str(tmp_path / "copies"))
        assert [m.frames for m in motions] == [11, 11, 6]
        assert [m.resampled for m in motions] == [HOW, None, HOW]
        assert [m.file == m.path for m in motions] == [False, True, False]
        assert [(m.path, m.sha256) for m in motions] == [
            (m.path, m.sha256) for m in find_motions(folder)
        ]
        for motion in motions:
            contents, problems = read_motion(motion.file)
            assert problems == []
            assert contents is not None
            assert (contents.frames, contents.fps) == (motion.frames, 50.0)
        assert rate_notes(motions) == [f"2 motions were resampled: {HOW}"]
        assert fit_motions(motions, 50.0) == motions, "they are of the task's rate now"

    @pytest.mark.parametrize(("fps", "wanted"), [(30, 50), (120, 50), (50, 50), (24, 60), (60, 24)])
    def test_values_are_those_of_their_time(self, fps: float, wanted: float) -> None:
        made = resample(swing(31, fps), wanted)
        t = np.arange(len(made["joint_pos"])) / wanted
        assert t[-1] <= 30 / fps + 1e-6 < t[-1] + 1 / wanted
        np.testing.assert_allclose(made["joint_pos"], np.stack([t, -2 * t], axis=1), atol=1e-5)
        np.testing.assert_allclose(made["joint_vel"], np.tile([1.0, -2.0], (len(t), 1)), atol=1e-6)
        want = np.stack([np.cos(t / 2), 0 * t, 0 * t, np.sin(t / 2)], axis=1)
        cosine = np.abs((made["body_quat_w"][:, 0] * want).sum(axis=1))
        np.testing.assert_allclose(cosine, 1.0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(made["body_quat_w"], axis=-1), 1.0, atol=1e-6)
        assert (made["body_ang_vel_w"][..., 2] == 1.0).all()
        assert made["joint_pos"].dtype == np.float32
        assert float(made["fps"][0]) == wanted

    def test_wide_arcs_are_turned_at_one_speed(self) -> None:
        arrays = swing(2, 1.0)
        arrays["body_quat_w"][0], arrays["body_quat_w"][1] = (
            [1, 0, 0, 0],
            [0, 0, 0, 1],
        )  # half a turn
        made = resample(arrays, 4.0)["body_quat_w"][:, 0]
        angles = 2 * np.arctan2(np.abs(made[:, 3]), np.abs(made[:, 0]))
        np.testing.assert_allclose(angles, np.pi * np.arange(5) / 4, atol=1e-6)

    def test_what_has_no_orientation_makes_no_nan(self) -> None:
        arrays = swing(4, 30.0)
        arrays["body_quat_w"][:, 1] = 0.0
        assert np.isfinite(resample(arrays, 50.0)["body_quat_w"]).all()

    def test_whole_seconds_are_whole_steps(self) -> None:
        for seconds in range(1, 200):
            assert resampled_frames(seconds * 30 + 1, 30.0, 50.0) == seconds * 50 + 1
            assert (
                resampled_frames(seconds * 60 + 1, 60.0, float(np.float32(50))) == seconds * 50 + 1
            )

    def test_what_nobody_knows_is_not_guessed_and_all_are_told(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **swing(5, 30.0), contacts=np.zeros((5, 2), bool))
        np.savez(tmp_path / "b.npz", **swing(2, 120.0))
        np.savez(tmp_path / "c.npz", **swing(5, 30.0), joint_names=np.array(["x", "y"]))
        motions = find_motions(str(tmp_path))
        with pytest.raises(InputError) as told:
            fit_motions(motions, 50.0, into=str(tmp_path / "copies"))
        head, a, b = str(told.value).split("\n")
        assert head == "motion: 2 of 3 files cannot be resampled"
        assert a.endswith("got contacts")
        assert b.endswith("expected 2 frames or more at 50 per second, got 1 of 2 at 120")
        (copy,) = fit_motions(motions[2:], 50.0, into=str(tmp_path))
        assert "joint_names" in read_arrays(copy.file)

    def test_names_that_were_pickled_are_left_out_of_the_copy(self, tmp_path: Path) -> None:
        names = np.array(["x", "y"], object)
        np.savez(tmp_path / "m.npz", **swing(5, 30.0), joint_names=names)
        (copy,) = fit_motions(find_motions(tmp_path / "m.npz"), 50.0, into=str(tmp_path / "to"))
        assert "joint_names" not in read_arrays(copy.file)
        assert copy.frames == 7


class TestFolder:
    def test_as_it_is(self, folder: str, tmp_path: Path) -> None:
        with fit_folder(folder, find_motions(folder), 50.0, allow_fps=True) as (given, motions):
            assert given == folder
        assert [m.file for m in motions] == [m.path for m in motions]

    def test_hidden_files_are_not_given_to_the_simulator(self, folder: str) -> None:
        Path(folder, "._a.npz").write_bytes(b"Mac OS X")
        found = find_motions(folder)
        with fit_folder(folder, found, 50.0, allow_fps=True) as (given, motions):
            files = sorted(str(p) for p in Path(given).rglob("*.npz"))
            assert files == [m.file for m in motions]
            assert len(files) == 3

    @pytest.mark.parametrize("one", [False, True])
    def test_of_links_and_copies(self, folder: str, one: bool) -> None:
        path = os.path.join(folder, "b.npz") if one else folder
        found = find_motions(path)
        with fit_folder(path, found, 50.0, resample=True) as (given, motions):
            files = sorted(str(p) for p in Path(given).rglob("*.npz"))
            assert files == sorted(m.file for m in motions)
            assert [read_motion(m.file)[0].fps for m in motions] == [50.0] * len(found)  # type: ignore[union-attr]
            assert all(m.file.endswith(m.path) for m in motions), "groups go by parts of the path"
        assert not os.path.exists(given)


class TestLedger:
    def told(self, queue: MotionQueue) -> dict[str, Any]:
        return json.loads(json.dumps(queue.ledger()))

    def test_it_says_what_the_files_are_and_how_they_were_played(
        self, folder: str, tmp_path: Path
    ) -> None:
        queue = MotionQueue(find_motions(folder))
        queue.take(fit_motions(queue.present, 50.0, into=str(tmp_path / "copies")))
        entries = self.told(queue)["motions"]
        assert [(e["fps"], e["played_fps"], e["resampled"], e["frames"]) for e in entries] == [
            (30.0, 50.0, HOW, 11),
            (50.0, 50.0, None, 11),
            (120.0, 50.0, HOW, 6),
        ]
        assert queue.copy().present == queue.present
        assert [m.file for m in queue.copy().present] == [m.file for m in queue.motions]

    def test_a_resume_plays_them_as_before(self, folder: str, tmp_path: Path) -> None:
        into = str(tmp_path / "copies")
        first = MotionQueue(find_motions(folder))
        first.take(fit_motions(first.present, 50.0, into=into))
        again = MotionQueue(find_motions(folder), None, self.told(first))
        with pytest.raises(StoreMismatchError, match=r"a\.npz was recorded with 11 frames, resa"):
            again.take(fit_motions(again.present, 50.0, allow_fps=True))
        again.take(fit_motions(again.present, 50.0, into=into))
        assert self.told(again) == self.told(first)

    def test_a_ledger_from_before_rates_were_told(self, folder: str, tmp_path: Path) -> None:
        old = self.told(MotionQueue(find_motions(folder)))
        for entry in old["motions"]:
            del entry["fps"], entry["played_fps"], entry["resampled"]
        again = MotionQueue(find_motions(folder), None, old)
        again.take(fit_motions(again.present, 50.0, allow_fps=True))
        assert [e["fps"] for e in self.told(again)["motions"]] == [30.0, 50.0, 120.0]
        with pytest.raises(StoreMismatchError, match="was recorded with 7 frames of its own"):
            again.take(fit_motions(again.present, 50.0, into=str(tmp_path / "copies")))
