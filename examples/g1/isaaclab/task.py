"""The tasks' configs: a G1 on a plane follows motions; a fall ends the episode."""

from __future__ import annotations

from typing import Any

from isaaclab.envs import ManagerBasedRLEnvCfg, mdp
from isaaclab.managers import (
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.utils import configclass
from isaaclab.utils.noise import UniformNoiseCfg
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_tasks.utils import PresetCfg, preset

from examples.g1.isaaclab import terms
from examples.g1.isaaclab.assets import ground_cfg, robot_cfg
from examples.g1.isaaclab.command import MotionCommandCfg


def _term(func: Any, noise: float = 0.0, **params: Any) -> ObservationTermCfg:
    spread = UniformNoiseCfg(n_min=-noise, n_max=noise) if noise else None
    return ObservationTermCfg(func=func, params=params, noise=spread)


@configclass
class TeacherGroupCfg(ObservationGroupCfg):
    """160 numbers."""

    command = _term(mdp.generated_commands, command_name="motion")
    anchor_pos_b = _term(terms.anchor_pos_b, 0.02)
    anchor_ori_b = _term(terms.anchor_ori_b, 0.02)
    lin_vel = _term(mdp.base_lin_vel, 0.05)
    ang_vel = _term(mdp.base_ang_vel, 0.1)
    joint_pos = _term(mdp.joint_pos_rel, 0.01)
    joint_vel = _term(mdp.joint_vel_rel, 0.2)
    actions = _term(mdp.last_action)


def teacher_group(noise: bool) -> TeacherGroupCfg:
    """What the expert acts on."""
    return TeacherGroupCfg(enable_corruption=noise)


def student_group(frames: int, order: str = "term") -> TeacherGroupCfg:
    """The teacher's without what a robot cannot measure: 154 numbers a frame."""
    return TeacherGroupCfg(
        enable_corruption=True,
        history_length=frames,
        history_order=order,
        anchor_pos_b=None,
        lin_vel=None,
    )


@configclass
class TeacherObservationsCfg:
    """Of the expert; a critic sees no noise."""

    policy: PresetCfg = preset(default=teacher_group(True), clean=teacher_group(False))
    critic: TeacherGroupCfg = teacher_group(False)


@configclass
class StudentObservationsCfg:
    """Of a student, by presets."""

    policy: PresetCfg = preset(
        default=student_group(5), short=student_group(2), time_major=student_group(5, "time")
    )


@configclass
class ActionsCfg:
    """Joint angles around the motion's."""

    # Balance is a matter of hips and ankles; what the others explore would only disturb it.
    joint_pos = terms.ResidualJointPositionCfg(
        asset_name="robot",
        joint_names=[".*"],
        scale={
            ".*_(hip|ankle)_(pitch|roll)_joint": 0.25,
            ".*_hip_yaw_joint|.*_knee_joint|(waist|.*shoulder|.*elbow|.*wrist).*": 0.05,
        },
    )


@configclass
class CommandsCfg:
    """The motion to follow."""

    motion: MotionCommandCfg = MotionCommandCfg()


@configclass
class RewardsCfg:
    """Of training."""

    alive = RewardTermCfg(func=mdp.is_alive, weight=1.0)
    near_anchor = RewardTermCfg(func=terms.near_anchor, weight=2.0, params={"std": 0.15})
    upright = RewardTermCfg(func=terms.upright, weight=1.0, params={"std": 0.3})
    near_bodies = RewardTermCfg(func=terms.near_bodies, weight=1.0, params={"std": 0.1})
    smooth = RewardTermCfg(func=mdp.action_rate_l2, weight=-0.01)


@configclass
class TerminationsCfg:
    """The motion's end and falls."""

    time_out = TerminationTermCfg(func=mdp.time_out, time_out=True)
    motion_end = TerminationTermCfg(func=terms.motion_end, time_out=True)
    fallen = TerminationTermCfg(func=terms.fallen, params={"threshold": 0.2})
    ends_astray = TerminationTermCfg(func=terms.ends_astray, params={"threshold": 0.2})


@configclass
class SceneCfg(InteractiveSceneCfg):
    """A robot on a plane."""

    ground = ground_cfg()
    robot = robot_cfg()


@configclass
class PhysicsCfg(PresetCfg):
    """One engine under two names, as Isaac Lab's own tasks have several."""

    newton_mjwarp = NewtonCfg(
        solver_cfg=MJWarpSolverCfg(njmax=300, nconmax=60, integrator="implicitfast"),
        use_cuda_graph=False,
    )
    default = newton_mjwarp


@configclass
class TeacherEnvCfg(ManagerBasedRLEnvCfg):
    """The expert's task, 50 steps a second."""

    decimation = 2
    episode_length_s = 10.0
    seed = 0
    scene: SceneCfg = SceneCfg(num_envs=16, env_spacing=2.5)
    observations: Any = TeacherObservationsCfg()
    actions: ActionsCfg = ActionsCfg()
    commands: CommandsCfg = CommandsCfg()
    rewards: RewardsCfg = RewardsCfg()
    terminations: TerminationsCfg = TerminationsCfg()

    def __post_init__(self) -> None:
        self.sim.device, self.sim.dt, self.sim.render_interval = "cpu", 0.01, self.decimation
        self.sim.physics = PhysicsCfg()
        self.events: dict[str, Any] = {}


@configclass
class StudentEnvCfg(TeacherEnvCfg):
    """The same, as a student sees it."""

    observations: Any = StudentObservationsCfg()
