"""A command of the shape of MOSAIC's over many motions: the same state, changed at the same times.

For a motion of L frames it shows frames 0 to L-1, then the last one again with ``motion_end_buf``
set. What is relative to the robot is computed in ``_update_command`` alone: an explicit reset does
not call it, and leaves that as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from isaaclab.managers import CommandTerm, CommandTermCfg
from isaaclab.utils import configclass
from isaaclab.utils.math import quat_apply, quat_inv, quat_mul, yaw_quat

from examples.g1.isaaclab.motions import MotionFolder

# The root first: a reset places the robot by it.
BODIES = (
    *("pelvis", "torso_link", "left_knee_link", "right_knee_link", "left_ankle_roll_link"),
    *("right_ankle_roll_link", "left_wrist_yaw_link", "right_wrist_yaw_link"),
)
ANCHOR, ENDS = BODIES.index("torso_link"), slice(4, 8)


class MotionCommand(CommandTerm):
    """Frames of a motion for each environment, and the robot's bodies beside them."""

    def __init__(self, cfg: MotionCommandCfg, env: Any) -> None:
        super().__init__(cfg, env)
        self.robot = env.scene[cfg.asset_name]
        bodies = self.robot.find_bodies(list(BODIES), preserve_order=True)[0]
        self._bodies = torch.tensor(bodies, device=self.device)
        self.motion_dir_loader = MotionFolder(cfg.motion, bodies, self.device)
        self.motion_lengths = self.motion_dir_loader.lengths
        shape, device = (self.num_envs,), self.device
        self.env_motion_indices = torch.randint(len(self.motion_lengths), shape, device=device)
        self.time_steps = torch.zeros(shape, dtype=torch.long, device=device)
        self.motion_end_buf = torch.zeros(shape, dtype=torch.bool, device=device)
        self.body_pos_relative_w = torch.zeros(*shape, len(BODIES), 3, device=device)

    @property
    def rows(self) -> torch.Tensor:
        """Each environment's frame among all frames, ``(N,)``."""
        last = self.motion_lengths[self.env_motion_indices] - 1
        start = self.motion_dir_loader.starts[self.env_motion_indices]
        return start + torch.minimum(self.time_steps, last)

    @property
    def command(self) -> torch.Tensor:
        return torch.cat((self.joint_pos, self.motion_dir_loader.joint_vel[self.rows]), dim=1)

    @property
    def joint_pos(self) -> torch.Tensor:
        return self.motion_dir_loader.joint_pos[self.rows]

    @property
    def body_pos_w(self) -> torch.Tensor:
        return self.motion_dir_loader.body_pos_w[self.rows] + self._env.scene.env_origins[:, None]

    @property
    def body_lin_vel_w(self) -> torch.Tensor:
        return self.motion_dir_loader.body_lin_vel_w[self.rows]

    @property
    def robot_joint_pos(self) -> Any:
        return self.robot.data.joint_pos

    @property
    def anchor_quat_w(self) -> torch.Tensor:
        return self.motion_dir_loader.body_quat_w[self.rows, ANCHOR]

    @property
    def robot_body_pos_w(self) -> torch.Tensor:
        return self.robot.data.body_link_pos_w.torch.index_select(1, self._bodies)

    @property
    def robot_anchor_quat_w(self) -> torch.Tensor:
        return self.robot.data.body_link_quat_w.torch[:, self._bodies[ANCHOR]]

    def reset(self, env_ids: Sequence[int] | slice | None = None) -> Any:
        ids = slice(None) if env_ids is None else env_ids
        self.motion_end_buf[ids] = False
        return super().reset(ids)

    def _resample_command(self, env_ids: Sequence[int] | slice) -> None:
        ids = torch.arange(self.num_envs, device=self.device)[env_ids]
        if self.cfg.start_from_beginning:
            self.time_steps[ids] = self.cfg.start_frame
        else:
            before_last = self.motion_lengths[self.env_motion_indices[ids]] - 1
            self.time_steps[ids] = (torch.rand(len(ids), device=self.device) * before_last).long()
        self._place(ids)

    def _place(self, ids: torch.Tensor) -> None:
        """Put robots on their frame, at rest but for a little noise."""
        loader, rows, env_ids = self.motion_dir_loader, self.rows[ids], ids.int()
        position = loader.body_pos_w[rows, 0] + self._env.scene.env_origins[ids]
        pose = torch.cat((position, loader.body_quat_w[rows, 0]), dim=1)
        velocity = self._uniform(self.cfg.velocity_range, len(ids), 6)
        joints = loader.joint_pos[rows]
        joints = joints + self._uniform(self.cfg.joint_position_range, *joints.shape)
        self.robot.write_root_pose_to_sim_index(root_pose=pose, env_ids=env_ids)
        self.robot.write_root_velocity_to_sim_index(root_velocity=velocity, env_ids=env_ids)
        self.robot.write_joint_position_to_sim_index(position=joints, env_ids=env_ids)
        self.robot.write_joint_velocity_to_sim_index(
            velocity=loader.joint_vel[rows], env_ids=env_ids
        )

    def _uniform(self, within: tuple[float, float], *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self.device).uniform_(*within)

    def _update_metrics(self) -> None:
        pass

    def _update_command(self) -> None:
        self.time_steps += 1
        self.motion_end_buf[:] = self.time_steps >= self.motion_lengths[self.env_motion_indices]
        body, robot = self.body_pos_w, self.robot_body_pos_w
        turn = yaw_quat(quat_mul(self.robot_anchor_quat_w, quat_inv(self.anchor_quat_w)))
        arms = body - body[:, ANCHOR, None]
        moved = quat_apply(turn[:, None].expand(-1, len(BODIES), -1), arms)
        onto = torch.cat((robot[:, ANCHOR, :2], body[:, ANCHOR, 2:]), dim=1)
        self.body_pos_relative_w[:] = onto[:, None] + moved


@configclass
class MotionCommandCfg(CommandTermCfg):
    """As MOSAIC's: what a collector sets is here; the ranges are of what a reset adds."""

    class_type: type = MotionCommand
    asset_name: str = "robot"
    body_names: tuple[str, ...] = BODIES
    resampling_time_range: tuple[float, float] = (1e9, 1e9)
    motion: str = ""
    start_from_beginning: bool = False
    start_frame: int = 0
    motion_dataset_shard_across_gpus: bool = True
    motion_dataset_load_cap: int | None = 2
    joint_position_range: tuple[float, float] = (-0.02, 0.02)
    velocity_range: tuple[float, float] = (-0.1, 0.1)
