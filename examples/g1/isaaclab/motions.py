"""Motions for the G1, and all of a folder loaded as MOSAIC's command loads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from examples.g1.motion import write_squat_motion


def write_motions(folder: Path, lengths: list[int]) -> str:
    """Squats of so many frames at 50 Hz, each of a depth of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(lengths):
        depth = 0.15 + 0.1 * number / max(len(lengths) - 1, 1)
        write_squat_motion(folder / f"motion_{number:03d}.npz", frames=length, amplitude=depth)
    return str(folder)


class MotionFolder:
    """All frames of all motions, one after the other.

    mjlab's files: its joints and bodies are in the MJCF's order, which is Newton's, too; its
    quaternions are wxyz, Isaac Lab 3's xyzw.

    Args:
        motion: A file, or a folder searched at every depth.
        bodies: Which of the file's bodies are kept, B of them.
        device: Where the frames go.

    Attributes:
        motion_paths: Files, sorted.
        lengths: Frames of each, ``(M,)``.
        starts: Row of each one's first frame, ``(M,)``.
        joint_pos, joint_vel: ``(F, 29)``, rad and rad/s.
        body_pos_w, body_quat_w: ``(F, B, 3)`` in m and ``(F, B, 4)``, of a robot at the origin.
        body_lin_vel_w: ``(F, B, 3)``, m/s.
    """

    def __init__(self, motion: str, bodies: list[int], device: str) -> None:
        path = Path(motion)
        found = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
        self.motion_paths = [str(file) for file in found]
        files = [np.load(file) for file in found]
        self.lengths = torch.tensor([len(file["joint_pos"]) for file in files], device=device)
        self.starts = self.lengths.cumsum(0) - self.lengths

        def frames(key: str) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([file[key] for file in files])).to(device)

        self.joint_pos, self.joint_vel = frames("joint_pos"), frames("joint_vel")
        self.body_pos_w = frames("body_pos_w")[:, bodies]
        self.body_lin_vel_w = frames("body_lin_vel_w")[:, bodies]
        self.body_quat_w = frames("body_quat_w")[:, bodies].roll(-1, dims=-1)
