"""A task whose managers, environment and wrapper are Isaac Lab's own; only the simulator is a toy.

Points in the plane follow motions. What they observe tells which motion and frame they are at, and
how many steps ago they were reset, so that every recorded row can be accounted for.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.contract.inside.stand_ins import install
from tests.helpers import motion_arrays

install()

from isaaclab.envs import ManagerBasedRLEnv  # noqa: E402  before the managers, or imports go round
from isaaclab.managers import (  # noqa: E402
    ActionTerm,
    ActionTermCfg,
    CommandTerm,
    CommandTermCfg,
    EventManager,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from isaaclab.utils import configclass  # noqa: E402
from isaaclab.utils.noise import AdditiveUniformNoiseCfg  # noqa: E402
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper  # noqa: E402

NOISE = 0.1
ASTRAY = 50.0  # motions are 100 apart from one another and from the origin


class Sim:
    """A simulator that does nothing."""

    device = "cpu"

    def is_playing(self) -> bool:
        return True

    def has_gui(self) -> bool:
        return False

    def has_rtx_sensors(self) -> bool:
        return False

    def step(self, render: bool = False) -> None:
        pass

    def forward(self) -> None:
        pass

    def render(self) -> None:
        pass


class Scene(dict[str, Any]):
    """Points with a velocity; ``fall`` names those that fall with the next step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__()
        self.num_envs, self.env_origins = num_envs, torch.zeros(num_envs, 3)
        self.x, self.velocity = torch.zeros(num_envs, 2), torch.zeros(num_envs, 2)
        self.clock = torch.zeros(num_envs)
        self.fall = torch.zeros(num_envs, dtype=torch.bool)
        self["robot"] = types.SimpleNamespace(joint_names=["x", "y"], body_names=["base", "tip"])

    def write_data_to_sim(self) -> None:
        pass

    def update(self, dt: float) -> None:
        self.x += dt * self.velocity
        self.clock += 1

    def reset(self, env_ids: Any) -> None:
        self.x[env_ids] = 0.0
        self.clock[env_ids] = 0


class Act(ActionTerm):
    def __init__(self, cfg: Any, env: Any) -> None:
        self.cfg, self._env = cfg, env
        self._raw = torch.zeros(env.num_envs, 2)

    action_dim = property(lambda self: 2)
    raw_actions = property(lambda self: self._raw)
    processed_actions = property(lambda self: self._raw)

    def process_actions(self, actions: torch.Tensor) -> None:
        self._raw[:] = actions

    def apply_actions(self) -> None:
        self._env.scene.velocity[:] = self._raw

    def reset(self, env_ids: Any = None) -> None:
        self._raw[env_ids] = 0.0

    def __del__(self) -> None:
        pass


class MotionCommand(CommandTerm):
    """What MOSAIC's command over many motions does to its state, without a robot."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        paths = sorted(str(p) for p in Path(cfg.motion).rglob("*.npz"))
        if cfg.shuffled:  # as its seed and cap do
            paths = paths[::-1]
        self.motion_dir_loader = types.SimpleNamespace(motion_paths=paths)
        self.robot = env.scene[cfg.asset_name]
        self._frames = [torch.from_numpy(np.load(p)["joint_pos"]) for p in paths]
        self._bodies = [torch.from_numpy(np.load(p)["body_pos_w"]) for p in paths]
        self._velocities = [torch.from_numpy(np.load(p)["body_lin_vel_w"]) for p in paths]
        self.motion_lengths = torch.tensor([len(f) for f in self._frames])
        self.env_motion_indices = torch.randint(len(paths), (self.num_envs,))
        self.time_steps = torch.zeros(self.num_envs, dtype=torch.long)
        self.motion_end_buf = torch.zeros(self.num_envs, dtype=torch.bool)
        self.body_pos_relative_w = torch.zeros(self.num_envs, 2)

    def _now(self, arrays: list[torch.Tensor]) -> torch.Tensor:
        at = torch.minimum(self.time_steps, self.motion_lengths[self.env_motion_indices] - 1)
        rows = zip(self.env_motion_indices.tolist(), at.tolist(), strict=True)
        return torch.stack([arrays[motion][frame] for motion, frame in rows])

    command = joint_pos = property(lambda self: self._now(self._frames))
    robot_joint_pos = property(lambda self: self._env.scene.x)
    body_pos_w = property(lambda self: self._now(self._bodies))
    body_lin_vel_w = property(lambda self: self._now(self._velocities))

    @property
    def robot_body_pos_w(self) -> torch.Tensor:
        bodies = torch.zeros(self.num_envs, 2, 3)
        bodies[..., :2], bodies[:, 1, 2] = self._env.scene.x[:, None], 1.0
        return bodies

    def reset(self, env_ids: Any = None) -> Any:
        self.motion_end_buf[env_ids] = False
        return super().reset(env_ids=env_ids)

    def _resample_command(self, env_ids: Any) -> None:
        lengths = self.motion_lengths[self.env_motion_indices[env_ids]]
        random = (torch.rand(len(lengths)) * lengths).long()
        self.time_steps[env_ids] = 0 if self.cfg.start_from_beginning else random
        self._env.scene.x[env_ids] = self.command[env_ids]

    def _update_metrics(self) -> None:
        pass

    def _update_command(self) -> None:
        self.time_steps += 1
        self.motion_end_buf[:] = self.time_steps >= self.motion_lengths[self.env_motion_indices]
        self.body_pos_relative_w[:] = self.command  # here alone: a reset leaves it as it was


def position(env: Any) -> torch.Tensor:
    return env.scene.x


def command(env: Any) -> torch.Tensor:
    return env.command_manager.get_command("motion")


def clock(env: Any) -> torch.Tensor:
    return env.scene.clock[:, None]


def image(env: Any) -> torch.Tensor:
    return torch.zeros(env.num_envs, 3, 4, 4)


def fallen(env: Any) -> torch.Tensor:
    return env.scene.fall


def astray(env: Any) -> torch.Tensor:
    """Whether a point is nowhere near its motion; fires on a command that nobody computed."""
    target = env.command_manager.get_term("motion").body_pos_relative_w
    return (target - env.scene.x).norm(dim=-1) > ASTRAY


def motion_end(env: Any) -> torch.Tensor:
    return env.command_manager.get_term("motion").motion_end_buf


def too_long(env: Any) -> torch.Tensor:
    return env.episode_length_buf >= env.max_episode_length


def reward(env: Any) -> torch.Tensor:
    return -env.scene.x.norm(dim=-1)


@configclass
class PolicyCfg(ObservationGroupCfg):
    pos: ObservationTermCfg = ObservationTermCfg(
        func=position, noise=AdditiveUniformNoiseCfg(n_min=-NOISE, n_max=NOISE)
    )
    command: ObservationTermCfg = ObservationTermCfg(func=command)
    clock: ObservationTermCfg = ObservationTermCfg(func=clock)

    def __post_init__(self) -> None:
        self.enable_corruption = True
        self.concatenate_terms = True


@configclass
class CameraCfg(ObservationGroupCfg):
    image: ObservationTermCfg = ObservationTermCfg(func=image)


@configclass
class TermsCfg(PolicyCfg):
    def __post_init__(self) -> None:
        self.concatenate_terms = False


@configclass
class ObservationsCfg:
    """The policy's, and such groups as it does not read: an image, and terms by their names."""

    policy: PolicyCfg = PolicyCfg()
    camera: CameraCfg = CameraCfg()
    terms: TermsCfg = TermsCfg()


@configclass
class MotionCfg(CommandTermCfg):
    class_type: type = MotionCommand
    resampling_time_range: tuple[float, float] = (1e9, 1e9)
    asset_name: str = "robot"
    body_names: tuple[str, ...] = ("base", "tip")
    motion: str = ""
    shuffled: bool = False
    start_from_beginning: bool = False
    start_frame: int = 0
    motion_dataset_shard_across_gpus: bool = True
    motion_dataset_load_cap: int = 2


@configclass
class CommandsCfg:
    motion: MotionCfg = MotionCfg()


@configclass
class ActCfg(ActionTermCfg):
    class_type: type = Act
    asset_name: str = "robot"


@configclass
class ActionsCfg:
    velocity: ActCfg = ActCfg()


@configclass
class TerminationsCfg:
    too_long: TerminationTermCfg = TerminationTermCfg(func=too_long, time_out=True)
    motion_end: TerminationTermCfg = TerminationTermCfg(func=motion_end, time_out=True)
    fallen: TerminationTermCfg = TerminationTermCfg(func=fallen)
    astray: TerminationTermCfg = TerminationTermCfg(func=astray)


@configclass
class EventsCfg:
    push: Any = None


@configclass
class RewardsCfg:
    near: RewardTermCfg = RewardTermCfg(func=reward, weight=1.0)


def task_cfg(num_envs: int = 4, episode: float = 1000.0) -> Any:
    """A config with the fields of Isaac Lab's that are read."""
    return types.SimpleNamespace(
        sim=types.SimpleNamespace(dt=1.0, render_interval=1, device="cuda:0"),
        decimation=1,
        is_finite_horizon=False,
        episode_length_s=episode,
        observations=ObservationsCfg(),
        actions=ActionsCfg(),
        events=EventsCfg(),
        recorders={},
        commands=CommandsCfg(),
        rewards=RewardsCfg(),
        terminations=TerminationsCfg(),
        curriculum=None,
        num_rerenders_on_reset=0,
        rerender_on_reset=False,
        wait_for_textures=False,
        seed=0,
        scene=types.SimpleNamespace(num_envs=num_envs),
    )


class ToyEnv(ManagerBasedRLEnv):
    """Set up by hand; ``step``, ``reset`` and all managers are Isaac Lab's."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.sim, self.scene = Sim(), Scene(cfg.scene.num_envs)
        self._is_closed, self._sim_step_counter, self.common_step_counter = True, 0, 0
        self.extras, self.obs_buf, self.render_mode = {}, {}, None
        self.episode_length_buf = torch.zeros(cfg.scene.num_envs, dtype=torch.long)
        self.event_manager = EventManager(cfg.events, self)
        self.load_managers()


def make(cfg: Any) -> Any:
    """The environment in Isaac Lab's rsl_rl wrapper."""
    from mosaic_collect.adapters.rsl_rl.load import quiet

    with quiet():
        return RslRlVecEnvWrapper(ToyEnv(cfg))


def write_motions(folder: Path, lengths: list[int]) -> str:
    """Motions whose frame ``f`` of motion ``m`` is the point ``(100 (m + 1), f)``."""
    folder.mkdir(parents=True, exist_ok=True)
    for motion, length in enumerate(lengths):
        frames = np.array([[100.0 * (motion + 1), f] for f in range(length)], dtype=np.float32)
        arrays = motion_arrays(frames, fps=1.0)  # a step of the task
        arrays["body_pos_w"][..., :2] = frames[:, None]
        arrays["body_lin_vel_w"][..., 1] = 1.0  # m/s; the command is a frame ahead of the robot
        np.savez(folder / f"motion_{motion}.npz", **arrays)
    return str(folder)
