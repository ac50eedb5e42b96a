"""Whether the robot stands where its reference is, after a reset that put it there.

Of motion commands as BeyondMimic's, which MOSAIC's and mjlab's are made after. A reset writes the
reference's root and joints to the robot, and all other bodies follow from those; so where bodies
are elsewhere than the reference has them, the file's arrays are not of this robot, or in another
order.
"""

from __future__ import annotations

from typing import Any

import torch

_NEAR_M = 0.05  # joint limits, at which joints are clipped, move bodies by that much
_NEAR_RAD = 0.3
_STEPS = 2.0  # a command may be a step ahead of the robot
_NEEDED = ("body_pos_w", "robot_body_pos_w", "body_lin_vel_w", "joint_pos", "robot_joint_pos")


def disagreement(command: Any, step_s: float, active: torch.Tensor) -> str | None:
    """How reference and robot differ, in words; None: they do not.

    Args:
        command: The motion command; one without bodies agrees.
        step_s: A step, in s.
        active: Environments that follow a motion, ``(N,)`` bool.
    """
    if not all(hasattr(command, name) for name in _NEEDED):
        return None
    reference = _tensor(command.body_pos_w)[active]
    robot = _tensor(command.robot_body_pos_w)[active]
    off = (reference - robot).norm(dim=-1)  # (n, bodies)
    allowed = _NEAR_M + _STEPS * step_s * _tensor(command.body_lin_vel_w)[active].norm(dim=-1)
    beyond = (off - allowed).nan_to_num(torch.inf)
    if bool((beyond <= 0).all()):
        return None
    env, body = divmod(int(beyond.argmax()), beyond.shape[1])
    count = int((beyond > 0).any(dim=1).sum())
    names = list(command.cfg.body_names)
    cause = _cause(command, active, reference, robot, names, env, body)
    return (
        f"in {count} of {len(off)} environments; body {names[body]!r} is "
        f"{float(off[env, body]):.2f} m from the robot's; likely {cause}"
    )


def _tensor(values: Any) -> torch.Tensor:
    """Isaac Lab 3's asset data are arrays of Warp's, which hold a tensor."""
    found: torch.Tensor = getattr(values, "torch", values)
    return found


def _cause(
    command: Any,
    active: torch.Tensor,
    reference: torch.Tensor,
    robot: torch.Tensor,
    names: list[str],
    env: int,
    body: int,
) -> str:
    off = _tensor(command.joint_pos) - _tensor(command.robot_joint_pos)
    joints = off[active].abs().nan_to_num(torch.inf)
    if float(joints.max()) > _NEAR_RAD:
        return (
            "the file's joints are in another order, of another robot, or in degrees: the robot's "
            "limits do not let it take them"
        )
    others = (robot[env] - reference[env, body]).norm(dim=-1).nan_to_num(torch.inf)
    nearest = int(others.argmin())
    if nearest != body and float(others[nearest]) <= _NEAR_M:
        return (
            f"the file's bodies are in another order: it has {names[body]!r} where the robot's "
            f"{names[nearest]!r} is"
        )
    return (
        "the file's joints or bodies are in another order or of another robot, or its quaternions "
        "xyzw for wxyz, or the other way round"
    )
