"""A task without motions: the G1 is told how fast to walk, and falls. Importing registers it."""

from __future__ import annotations

from typing import Any

import gymnasium
from isaaclab.envs import ManagerBasedRLEnvCfg, mdp
from isaaclab.managers import (
    EventTermCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from isaaclab.utils import configclass
from isaaclab.utils.noise import UniformNoiseCfg

from examples.g1.isaaclab.agent import AgentCfg
from examples.g1.isaaclab.task import PhysicsCfg, SceneCfg

TASK, EPISODE = "G1-Velocity", 20  # steps
_SPEEDS = mdp.UniformVelocityCommandCfg.Ranges(
    lin_vel_x=(-1.0, 1.0), lin_vel_y=(-1.0, 1.0), ang_vel_z=(-1.0, 1.0)
)


@configclass
class PolicyCfg(ObservationGroupCfg):
    enable_corruption = True
    lin_vel = ObservationTermCfg(
        func=mdp.base_lin_vel, noise=UniformNoiseCfg(n_min=-0.1, n_max=0.1)
    )
    command = ObservationTermCfg(func=mdp.generated_commands, params={"command_name": "speed"})
    joint_pos = ObservationTermCfg(func=mdp.joint_pos_rel)


@configclass
class ActionsCfg:
    joint_pos = mdp.JointPositionActionCfg(asset_name="robot", joint_names=[".*"], scale=0.25)


@configclass
class CommandsCfg:
    speed = mdp.UniformVelocityCommandCfg(
        asset_name="robot",
        resampling_time_range=(0.1, 0.1),
        ranges=_SPEEDS,
        heading_command=False,
        debug_vis=False,
    )


@configclass
class VelocityEnvCfg(ManagerBasedRLEnvCfg):
    """Most managers' configs are dicts, where the G1's other tasks have classes."""

    decimation = 2
    episode_length_s = EPISODE * 0.02
    seed = 0
    scene: SceneCfg = SceneCfg(num_envs=8, env_spacing=2.5)
    actions: ActionsCfg = ActionsCfg()
    commands: CommandsCfg = CommandsCfg()

    def __post_init__(self) -> None:
        self.sim.device, self.sim.dt, self.sim.render_interval = "cuda:0", 0.01, self.decimation
        self.sim.physics = PhysicsCfg()
        self.observations: dict[str, Any] = {"policy": PolicyCfg(), "critic": PolicyCfg()}
        self.events = {"stand": EventTermCfg(func=mdp.reset_scene_to_default, mode="reset")}
        self.rewards = {"alive": RewardTermCfg(func=mdp.is_alive, weight=1.0)}
        fallen = TerminationTermCfg(
            func=mdp.root_height_below_minimum, params={"minimum_height": 0.74}
        )
        self.terminations = {
            "time_out": TerminationTermCfg(func=mdp.time_out, time_out=True),
            "fallen": fallen,
        }


gymnasium.register(
    id=TASK,
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}:VelocityEnvCfg",
        "rsl_rl_cfg_entry_point": f"{AgentCfg.__module__}:AgentCfg",
    },
)
