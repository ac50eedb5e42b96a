"""What the task observes, rewards and ends by, and how it acts."""

from __future__ import annotations

from typing import Any

import torch
from isaaclab.envs.mdp.actions.actions_cfg import JointPositionActionCfg
from isaaclab.envs.mdp.actions.joint_actions import JointPositionAction
from isaaclab.utils import configclass
from isaaclab.utils.math import (
    matrix_from_quat,
    quat_apply_inverse,
    quat_error_magnitude,
    quat_inv,
    quat_mul,
)

from examples.g1.isaaclab.command import ANCHOR, ENDS, MotionCommand


class ResidualJointPosition(JointPositionAction):
    """Targets around the motion's joint angles, instead of around the default ones."""

    def process_actions(self, actions: torch.Tensor) -> None:
        super().process_actions(actions)
        self._processed_actions += _motion(self._env).joint_pos


@configclass
class ResidualJointPositionCfg(JointPositionActionCfg):
    """Of ``ResidualJointPosition``."""

    class_type: type = ResidualJointPosition
    use_default_offset: bool = False


def _motion(env: Any) -> MotionCommand:
    command: MotionCommand = env.command_manager.get_term("motion")
    return command


def anchor_pos_b(env: Any) -> torch.Tensor:
    """From the robot's torso to the motion's, in the robot's frame, m."""
    command = _motion(env)
    way = command.body_pos_w[:, ANCHOR] - command.robot_body_pos_w[:, ANCHOR]
    return quat_apply_inverse(command.robot_anchor_quat_w, way)


def anchor_ori_b(env: Any) -> torch.Tensor:
    """The motion's torso in the robot's frame: two columns of the rotation."""
    command = _motion(env)
    turn = quat_mul(quat_inv(command.robot_anchor_quat_w), command.anchor_quat_w)
    return matrix_from_quat(turn)[..., :2].flatten(1)


def near_anchor(env: Any, std: float) -> torch.Tensor:
    """How near the torso is to the motion's."""
    command = _motion(env)
    error = command.body_pos_w[:, ANCHOR] - command.robot_body_pos_w[:, ANCHOR]
    return torch.exp(-error.square().sum(dim=-1) / std**2)


def upright(env: Any, std: float) -> torch.Tensor:
    """How near its rotation is."""
    command = _motion(env)
    error = quat_error_magnitude(command.anchor_quat_w, command.robot_anchor_quat_w)
    return torch.exp(-error.square() / std**2)


def near_bodies(env: Any, std: float) -> torch.Tensor:
    """How near all bodies are, relative to the torso."""
    command = _motion(env)
    error = (command.body_pos_relative_w - command.robot_body_pos_w).square().sum(dim=-1)
    return torch.exp(-error.mean(dim=-1) / std**2)


def fallen(env: Any, threshold: float) -> torch.Tensor:
    """Whether the torso is so far, in m, above or below the motion's."""
    command = _motion(env)
    error = command.body_pos_w[:, ANCHOR, 2] - command.robot_body_pos_w[:, ANCHOR, 2]
    return error.abs() > threshold


def ends_astray(env: Any, threshold: float) -> torch.Tensor:
    """As ``fallen``, of feet and hands; fires on a command that no step has updated yet."""
    command = _motion(env)
    error = command.body_pos_relative_w[:, ENDS, 2] - command.robot_body_pos_w[:, ENDS, 2]
    return (error.abs() > threshold).any(dim=-1)


def motion_end(env: Any) -> torch.Tensor:
    """Whether the motion is over."""
    return _motion(env).motion_end_buf
