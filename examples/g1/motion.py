"""Synthesise the demo's reference motion: a Unitree G1 doing slow squats.

The motion comes from forward kinematics alone. Whether a robot can track it under physics is
the business of the expert (see ``scripts/make_demo_expert.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from mjlab.asset_zoo.robots import get_g1_robot_cfg
from mjlab.entity import Entity, EntityCfg
from numpy.typing import NDArray

FootNames = tuple[str, str]

_FEET: FootNames = ("left_ankle_roll_link", "right_ankle_roll_link")
# Radians added per radian of squat. Bending the knee twice as far as hip and ankle keeps the
# soles flat and the torso upright.
_FPS = 50  # of mjlab's tracking tasks
_SQUAT_DIRECTION = {"hip_pitch": -1.0, "knee": 2.0, "ankle_pitch": -1.0}


def write_squat_motion(path: str | Path, *, frames: int = 126, amplitude: float = 0.25) -> None:
    """Write a squat as the ``.npz`` file that mjlab's ``MotionLoader`` reads.

    The robot goes down and up in ``frames`` frames. First and last frame are the standing pose at
    rest, so a motion of ``frames`` frames lasts ``(frames - 1) / 50`` seconds. Both feet stay where
    they are.

    The file holds, with T frames, J = 29 joints and B = 30 bodies in mjlab's order:

    ===================  =========  =======================================================
    key                  shape      meaning
    ===================  =========  =======================================================
    ``fps``              (1,)       frames a second
    ``joint_pos``        (T, J)     joint angles, rad
    ``joint_vel``        (T, J)     joint velocities, rad/s
    ``body_pos_w``       (T, B, 3)  body origins in the world, m
    ``body_quat_w``      (T, B, 4)  body orientations in the world, w x y z
    ``body_lin_vel_w``   (T, B, 3)  velocities of the body origins in the world, m/s
    ``body_ang_vel_w``   (T, B, 3)  angular velocities in the world, rad/s
    ===================  =========  =======================================================

    All arrays are float32.

    Args:
        path: The file to write. Its folder must exist.
        frames: Number of frames T, at least 2.
        amplitude: Bend of hip and ankle at the deepest point, rad; the knee bends twice this.

    Raises:
        ValueError: Too few frames.
    """
    if frames < 2:
        raise ValueError(f"need frames >= 2, got {frames}")
    robot_cfg = get_g1_robot_cfg()
    model = Entity(robot_cfg).spec.compile()
    phase = 2.0 * np.pi * np.arange(frames) / (frames - 1)
    depth = 0.5 * amplitude * (1.0 - np.cos(phase))
    qpos = _squat_positions(model, _standing_position(model, robot_cfg), depth)
    qvel = _differentiate(model, qpos, 1.0 / _FPS)
    arrays = _body_states(model, qpos, qvel)
    joints = _hinge_joints(model)
    arrays["joint_pos"] = qpos[:, [model.joint(j).qposadr[0] for j in joints]]
    arrays["joint_vel"] = qvel[:, [model.joint(j).dofadr[0] for j in joints]]
    arrays["fps"] = np.array([_FPS])
    files: dict[str, Any] = {key: a.astype(np.float32) for key, a in arrays.items()}
    np.savez_compressed(path, **files)


def _hinge_joints(model: mujoco.MjModel) -> list[str]:
    """Names of all joints but the floating base, in mjlab's joint order."""
    free = mujoco.mjtJoint.mjJNT_FREE
    return [model.joint(i).name for i in range(model.njnt) if model.jnt_type[i] != free]


def _standing_position(model: mujoco.MjModel, robot_cfg: EntityCfg) -> NDArray[np.float64]:
    """The robot's initial pose as a vector of generalised positions (nq,)."""
    qpos = np.zeros(model.nq)
    qpos[:3] = robot_cfg.init_state.pos
    qpos[3] = 1.0
    for pattern, angle in (robot_cfg.init_state.joint_pos or {}).items():
        for name in _hinge_joints(model):
            if re.fullmatch(pattern, name):
                qpos[model.joint(name).qposadr[0]] = angle
    return qpos


def _feet_center(model: mujoco.MjModel, qpos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Midpoint between the two feet in the world, m (3,)."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return np.asarray(np.mean([data.body(name).xpos for name in _FEET], axis=0))


def _squat_positions(
    model: mujoco.MjModel, standing: NDArray[np.float64], depth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Poses (T, nq) bent by ``depth`` (T,) rad, with the feet where they are in ``standing``."""
    feet = _feet_center(model, standing)
    qpos = np.tile(standing, (len(depth), 1))
    for joint, direction in _SQUAT_DIRECTION.items():
        for side in ("left", "right"):
            address = model.joint(f"{side}_{joint}_joint").qposadr[0]
            qpos[:, address] += direction * depth
    for frame in qpos:
        frame[:3] += feet - _feet_center(model, frame)
    return qpos


def _differentiate(
    model: mujoco.MjModel, qpos: NDArray[np.float64], dt: float
) -> NDArray[np.float64]:
    """Generalised velocities (T, nv) by central differences, zero on the first and last frame."""
    qvel = np.zeros((len(qpos), model.nv))
    for t in range(1, len(qpos) - 1):
        mujoco.mj_differentiatePos(model, qvel[t], 2.0 * dt, qpos[t - 1], qpos[t + 1])
    return qvel


def _body_states(
    model: mujoco.MjModel, qpos: NDArray[np.float64], qvel: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """World poses and velocities of all bodies but MuJoCo's ``world``, by forward kinematics."""
    data = mujoco.MjData(model)
    shape = (len(qpos), model.nbody - 1)
    pos, quat = np.zeros((*shape, 3)), np.zeros((*shape, 4))
    lin_vel, ang_vel = np.zeros((*shape, 3)), np.zeros((*shape, 3))
    velocity = np.zeros(6)
    for t in range(len(qpos)):
        data.qpos[:], data.qvel[:] = qpos[t], qvel[t]
        mujoco.mj_forward(model, data)
        pos[t], quat[t] = data.xpos[1:], data.xquat[1:]
        for body in range(1, model.nbody):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
            ang_vel[t, body - 1], lin_vel[t, body - 1] = velocity[:3], velocity[3:]
    return {
        "body_pos_w": pos,
        "body_quat_w": quat,
        "body_lin_vel_w": lin_vel,
        "body_ang_vel_w": ang_vel,
    }
