"""A task's MuJoCo scene or a robot's model, drawn offscreen: the robot, its reference beside it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import mjlab.tasks  # noqa: F401  registers the tasks
import mujoco
import numpy as np
from mjlab.scene import Scene
from mjlab.tasks.registry import list_tasks, load_env_cfg
from numpy.typing import NDArray

from mosaic_collect.adapters.rsl_rl.simulation import MOTION
from mosaic_collect.checks import opengl_settings
from mosaic_collect.errors import InputError, MissingDependencyError
from mosaic_collect.store.robot import Robot

_APART = 1.0  # m from the robot to its reference, to the right in the picture
#: Places of a free base and of joints among the generalised positions.
Layout = tuple[slice, Sequence[int]]
_FLOOR = (0.75, 0.77, 0.8, 1.0)
_GREEN = (0.25, 0.62, 0.4, 1.0)
_SKY = {
    "name": "sky",
    "type": mujoco.mjtTexture.mjTEXTURE_SKYBOX,
    "builtin": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
    "rgb1": (0.92, 0.94, 0.96),
    "rgb2": (0.62, 0.7, 0.8),
    "width": 64,
    "height": 384,
}


class Stage:
    """A scene with one environment, in which recorded states are drawn.

    Attributes:
        fps: Recorded steps per second.
        nq: Width of the recorded generalised positions.
        layout: Places of the robot that follows motions among them: those of its free base (x, y, z
            and a quaternion w, x, y, z), and of its joints in a motion's order; None: no robot
            follows any.
    """

    def __init__(
        self, spec: mujoco.MjSpec, viewer: Any, fps: float, places: Sequence[int] | None = None
    ) -> None:
        spec.add_texture(**_SKY)
        self._model = spec.compile()
        # On a CPU shadows take two thirds of a picture's time.
        self._model.light_castshadow[:] = False
        self._model.mat_reflectance[:] = 0.0
        self._viewer, self.fps = viewer, fps
        self._places = range(self._model.nq) if places is None else places
        self.nq = len(self._places)
        self.layout: Layout | None = None

    @classmethod
    def of_task(cls, task: str) -> Stage:
        """The scene of a registered task of mjlab; another name is an ``InputError``."""
        if task not in list_tasks():
            raise InputError(f"task: expected one of {', '.join(list_tasks())}, got {task!r}")
        cfg = load_env_cfg(task, play=True)
        cfg.scene.num_envs = 1
        fps = 1.0 / (cfg.sim.mujoco.timestep * cfg.decimation)
        stage = cls(Scene(cfg.scene, "cpu").spec, cfg.viewer, fps)
        command = cfg.commands.get(MOTION)
        if command is not None:
            stage.layout = _layout(stage._model, command.entity_name)
        return stage

    @classmethod
    def of_model(cls, path: str, robot: Robot) -> Stage:
        """A robot of an MJCF or URDF file, on a floor, for states of any simulator.

        Raises:
            InputError: The file is no model, or lacks joints; or the robot lacks names or step.
        """
        if not robot.joint_names or robot.control_dt is None:
            raise InputError("model: expected a store with the robot's joint_names and control_dt")
        try:
            spec = mujoco.MjSpec.from_file(path)
            model = spec.copy().compile()
        except ValueError as error:
            raise InputError(f"model: {path}: expected a model of MuJoCo, got {error}") from error
        joints = [model.joint(i) for i in range(model.njnt)]
        names = {joint.name: int(joint.qposadr[0]) for joint in joints}
        if missing := [name for name in robot.joint_names if name not in names]:
            raise InputError(
                f"model: {path}: expected the recorded robot's joints, got none named "
                f"{', '.join(missing)}; its joints are {', '.join(names)}"
            )
        free = [int(j.qposadr[0]) for j in joints if j.type[0] == mujoco.mjtJoint.mjJNT_FREE]
        base = [*range(free[0], free[0] + 7)] if free else []
        if not any(geom.type == mujoco.mjtGeom.mjGEOM_PLANE for geom in spec.geoms):
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], rgba=_FLOOR)
        if not spec.lights:
            spec.worldbody.add_light(pos=[0, 0, 4], dir=[0.3, 0.3, -1])
        viewer = SimpleNamespace(distance=2.0 * model.stat.extent, azimuth=135.0, elevation=-10.0)
        places = [*base, *(names[name] for name in robot.joint_names)]
        stage = cls(spec, viewer, 1.0 / robot.control_dt, places)
        stage.layout = (slice(0, 7), range(7, len(places))) if free else None
        return stage

    def frames(
        self,
        robot: NDArray[np.float64] | None,
        reference: NDArray[np.float64] | None,
        steps: Sequence[int],
        width: int,
        height: int,
    ) -> Iterator[NDArray[np.uint8]]:
        """Draw steps of a trajectory, each ``(height, width, 3)``.

        Without a robot the reference stands in its place. Where OpenGL draws nothing, that is a
        ``MissingDependencyError``.
        """
        camera, viewer = mujoco.MjvCamera(), self._viewer
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.distance, camera.elevation = viewer.distance, viewer.elevation
        camera.azimuth = viewer.azimuth
        main, aside = robot, self._aside(reference)
        model, green = self._model, _green(self._model)
        if main is None:
            main, aside, model = reference, None, green
        assert main is not None
        figure, ghost = mujoco.MjData(model), mujoco.MjData(green)
        shown = [main] if aside is None else [main, aside]
        centre = np.mean([self._centre(qpos) for qpos in shown], axis=0)
        renderer = _renderer(model, width, height)
        try:
            for step in steps:
                self._pose(model, figure, main[step])
                camera.lookat[:] = centre[step]
                renderer.update_scene(figure, camera)
                if aside is not None:
                    self._pose(green, ghost, aside[step])
                    # Without its floor and lights.
                    options = mujoco.MjvOption(), mujoco.MjvPerturb()
                    moving = mujoco.mjtCatBit.mjCAT_DYNAMIC.value
                    mujoco.mjv_addGeoms(green, ghost, *options, moving, renderer.scene)
                yield renderer.render()
        finally:
            renderer.close()

    def _pose(self, model: mujoco.MjModel, data: mujoco.MjData, qpos: NDArray[np.float64]) -> None:
        data.qpos[self._places] = qpos
        mujoco.mj_forward(model, data)

    def _aside(self, reference: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The reference, to the right in the picture, along the floor."""
        if reference is None or self.layout is None:
            return None
        azimuth = np.deg2rad(self._viewer.azimuth)
        moved, x = reference.copy(), self.layout[0].start
        moved[:, x : x + 2] += _APART * np.array([np.sin(azimuth), -np.cos(azimuth)])
        return moved

    def _centre(self, qpos: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the camera looks at in each step, ``(num_steps, 3)``: smoothly after the base."""
        free = np.flatnonzero(self._model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        if not len(free):
            return np.broadcast_to(self._model.stat.center, (len(qpos), 3))
        start = self._places.index(int(self._model.jnt_qposadr[free[0]]))
        base = qpos[:, start : start + 3]
        half = round(self.fps / 2)
        padded = np.pad(base, ((half, half), (0, 0)), mode="edge")
        sums = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
        width = 2 * half + 1
        centre: NDArray[np.float64] = (sums[width:] - sums[:-width]) / width
        return centre


def _layout(model: mujoco.MjModel, entity: str) -> Layout | None:
    """Places of an entity with a free base; its joints' names begin with the entity's."""
    joints = map(model.joint, range(model.njnt))
    mine = [joint for joint in joints if joint.name.startswith(f"{entity}/")]
    free = [int(j.qposadr[0]) for j in mine if j.type[0] == mujoco.mjtJoint.mjJNT_FREE]
    if len(free) != 1:
        return None
    others = [int(j.qposadr[0]) for j in mine if int(j.qposadr[0]) != free[0]]
    return slice(free[0], free[0] + 7), others


def _green(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy whose robots are of one colour."""
    tinted = copy.copy(model)
    moving = model.body_weldid[model.geom_bodyid] != 0
    tinted.geom_rgba[moving], tinted.geom_matid[moving] = _GREEN, -1
    return tinted


def _renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    # A context that could not be made would print, when it is freed, that it cannot be.
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        return mujoco.Renderer(model, height=height, width=width)
    except Exception as error:  # noqa: BLE001  each of its ways to OpenGL has errors of its own
        found = f"{type(error).__name__}: {error}{opengl_settings()}"
    finally:  # by then it is freed
        sys.unraisablehook = before
    raise MissingDependencyError(
        "pictures of a robot need OpenGL, on a CPU Mesa's: apt-get install libegl1 "
        f"libgl1-mesa-dri ({found})"
    )
