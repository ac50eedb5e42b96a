"""Make the demo's assets: a squat motion for the Unitree G1 and an expert that tracks it.

Three steps, all on the CPU:

1. Write the motion (``g1_squat.npz``) by forward kinematics.
2. Derive a teacher from the physics model: a linear-quadratic regulator (LQR) about a crouch.
   It reads the simulator's exact state.
3. Regress mjlab's default actor on the teacher, DAgger style: the student acts on its noisy
   observations, the teacher labels the states that come of it. The student thereby learns which
   of its noisy inputs tell most about the state. Save it as an rsl_rl checkpoint
   (``g1_expert.pt``) that holds the actor alone.

The expert is then read back and tested in fresh environments with other seeds.

Takes about ten minutes on one core. Needs mosaic_collect installed, with mjlab and rsl_rl.

Usage: ``python -m scripts.make_demo_expert --output examples/g1/assets``
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import time
from pathlib import Path

import mjlab.tasks  # noqa: F401  (registers the tasks)
import mujoco
import numpy as np
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.termination_manager import TerminationTermCfg
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg
from mjlab.utils.lab_api.math import quat_inv, quat_mul
from numpy.typing import NDArray
from tensordict import TensorDict

from examples.g1.motion import write_squat_motion
from scripts.imitation import Policy, regress, save_actor

TASK = "Mjlab-Tracking-Flat-Unitree-G1"
MOTION_NAME = "g1_squat.npz"
EXPERT_NAME = "g1_expert.pt"

ROBOT = "robot/"  # Prefix of the robot's names in the scene's MuJoCo model.
FEET = ("left_ankle_roll_link", "right_ankle_roll_link")
DISCOUNT = 0.998
"""LQR discount a step. Feet that stand still cannot move the robot along the ground, and only a
discounted problem has a solution with such states in it."""

Array = NDArray[np.float64]


@dataclasses.dataclass
class Rollout:
    """One episode in each of N environments.

    Attributes:
        obs: Actor observations without noise (S, 160) of all steps of these episodes.
        labels: What the teacher would have done at each of them (S, 29).
        success: Whether the motion's end was reached without a termination (N,).
        root_drop: How far the root went below its start (N,), m.
        anchor_error: Mean distance between the robot's and the motion's torso (N,), m.
    """

    obs: torch.Tensor
    labels: torch.Tensor
    success: torch.Tensor
    root_drop: torch.Tensor
    anchor_error: torch.Tensor


def motion_end(env: ManagerBasedRlEnv) -> torch.Tensor:
    """Whether the motion's last frame is reached: mjlab would teleport without a done."""
    command = env.command_manager.get_term("motion")
    return command.time_steps >= command.motion.time_step_total - 1


def make_env(motion: Path, num_envs: int, seed: int) -> RslRlVecEnvWrapper:
    """The tracking task as the demo runs it: noisy actor, all terminations, exact starts."""
    cfg = load_env_cfg(TASK, play=True)
    cfg.seed = seed
    cfg.scene.num_envs = num_envs
    command = cfg.commands["motion"]
    command.motion_file = str(motion)
    command.debug_vis = False
    command.sampling_mode = "start"
    command.joint_position_range = (0.0, 0.0)
    cfg.observations["actor"].enable_corruption = True
    # Only this script reads the clean group: regression draws the noise anew for each batch.
    cfg.observations["clean"] = copy.deepcopy(cfg.observations["actor"])
    cfg.observations["clean"].enable_corruption = False
    cfg.terminations["motion_end"] = TerminationTermCfg(func=motion_end, time_out=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg, device="cpu"))


def make_runner(env: RslRlVecEnvWrapper) -> MjlabOnPolicyRunner:
    """A runner with the task's default networks."""
    with contextlib.redirect_stdout(io.StringIO()):
        return MjlabOnPolicyRunner(env, dataclasses.asdict(load_rl_cfg(TASK)), None, "cpu")


class RobotModel:
    """The scene's MuJoCo model, with positions, velocities and forces in the motion's order.

    A state error has 2 * 35 entries: root position (world), root rotation (body frame), 29 joint
    angles, then the velocities of the same.
    """

    def __init__(self, env: RslRlVecEnvWrapper, motion: Path) -> None:
        self.model = copy.copy(env.unwrapped.sim.mj_model)
        self.data = mujoco.MjData(self.model)
        self._root = self.model.body(ROBOT + "pelvis").id
        self._feet = [self.model.body(ROBOT + name).id for name in FEET]
        joints = [
            self.model.joint(ROBOT + name).id for name in env.unwrapped.scene["robot"].joint_names
        ]
        # The model orders its actuators by motor type, not by joint.
        driven_joints = self.model.actuator_trnid[:, 0].tolist()
        self._actuators = [driven_joints.index(joint) for joint in joints]
        self._decimation = env.unwrapped.cfg.decimation
        self.stiffness = self.model.actuator_gainprm[self._actuators, 0]
        self.damping = -self.model.actuator_biasprm[self._actuators, 2]
        with np.load(motion) as arrays:
            self._motion = {key: arrays[key].astype(np.float64) for key in arrays}

    def joint_targets(self) -> Array:
        """Position targets (T, 29) in rad that make the joint springs follow the motion.

        The actuators are soft: they sag by torque / stiffness under the robot's weight and lag
        by damping / stiffness times the velocity. Both are added in advance.
        """
        lag = self._motion["joint_vel"] * self.damping / self.stiffness
        frames = range(len(lag))
        sag = np.array([self._static_torque(t) for t in frames]) / self.stiffness
        return self._motion["joint_pos"] + sag + lag

    def feedback(self, frame: int, *, control_cost: float) -> Array:
        """LQR gains (29, 70) from state errors to changes of the position targets.

        ``control_cost`` is that of moving a target by 1 rad: more makes a softer feedback.
        """
        self._settle(frame)
        a, b = self._linearise()
        return _solve_lqr(a, b, self._state_cost(), control_cost * np.eye(b.shape[1]))

    def _set_pose(self, frame: int) -> None:
        """Put the robot at rest in the pose of a frame."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:3] = self._motion["body_pos_w"][frame, 0]
        self.data.qpos[3:7] = self._motion["body_quat_w"][frame, 0]
        self.data.qpos[7:] = self._motion["joint_pos"][frame]
        mujoco.mj_forward(self.model, self.data)

    def _static_torque(self, frame: int) -> Array:
        """Joint torques (29,) against gravity, with half the weight under each foot."""
        self._set_pose(frame)
        weight = -self.model.body_subtreemass[self._root] * self.model.opt.gravity[2]
        torque, jacobian = self.data.qfrc_bias.copy(), np.zeros((3, self.model.nv))
        for foot in self._feet:
            # The ground pushes below the centre of mass, else the robot would tip over.
            point = np.array([self.data.subtree_com[self._root, 0], self.data.xpos[foot, 1], 0.0])
            mujoco.mj_jac(self.model, self.data, jacobian, None, point, foot)
            torque -= jacobian.T @ np.array([0.0, 0.0, 0.5 * weight])
        return torque[6:]

    def _settle(self, frame: int, steps: int = 400) -> None:
        """Let the feet sink into the ground until it carries the robot in a frame's pose.

        The contacts have to be loaded as they are when standing, or the linear model would miss
        them. Strong damping keeps the root from falling over meanwhile.
        """
        targets = self._motion["joint_pos"][frame] + self._static_torque(frame) / self.stiffness
        self._set_pose(frame)
        self.data.ctrl[self._actuators] = targets
        damping = self.model.dof_damping[:6].copy()
        self.model.dof_damping[:6] = [1e4, 1e4, 1e2, 1e4, 1e4, 1e4]
        for _ in range(steps):
            mujoco.mj_step(self.model, self.data)
        self.model.dof_damping[:6] = damping
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def _linearise(self) -> tuple[Array, Array]:
        """Transition matrices (70, 70) and (70, 29) of one environment step about the state."""
        size = 2 * self.model.nv
        a, b = np.zeros((size, size)), np.zeros((size, self.model.nu))
        mujoco.mjd_transitionFD(self.model, self.data, 1e-6, True, a, b, None, None)
        # The targets are held for all physics steps of an environment step.
        held = sum(np.linalg.matrix_power(a, k) for k in range(self._decimation)) @ b
        return np.linalg.matrix_power(a, self._decimation), held[:, self._actuators]

    def _state_cost(self) -> Array:
        """Quadratic cost (70, 70): the centre of mass over the feet, upright, near the pose."""
        nv = self.model.nv
        balance, foot_jacobian = np.zeros((3, nv)), np.zeros((3, nv))
        mujoco.mj_jacSubtreeCom(self.model, self.data, balance, self._root)
        for foot in self._feet:
            mujoco.mj_jacBody(self.model, self.data, foot_jacobian, None, foot)
            balance -= foot_jacobian / len(self._feet)
        cost = np.zeros((2 * nv, 2 * nv))
        cost[:nv, :nv] = 100.0 * balance.T @ balance
        cost[nv:, nv:] = 10.0 * balance.T @ balance + 1e-3 * np.eye(nv)
        diagonal = np.arange(3, nv)
        cost[diagonal, diagonal] += np.where(diagonal < 6, 10.0, 1.0)
        return cost


def _solve_lqr(a: Array, b: Array, state_cost: Array, control_cost: Array) -> Array:
    """Gains K of the discounted infinite-horizon LQR (u = -K x), by Riccati iteration."""
    a, b = DISCOUNT * a, DISCOUNT * b
    value = state_cost
    for _ in range(5000):
        gains = np.linalg.solve(control_cost + b.T @ value @ b, b.T @ value @ a)
        update = state_cost + a.T @ value @ (a - b @ gains)
        update = 0.5 * (update + update.T)
        change = np.abs(update - value).max() / np.abs(update).max()
        value = update
        if change < 1e-6:
            return gains
    raise RuntimeError(f"the Riccati iteration still changes by {change:.1e}")


class Teacher:
    """Tracks the motion by position targets and LQR feedback on the simulator's exact state."""

    def __init__(self, env: RslRlVecEnvWrapper, motion: Path) -> None:
        robot_model = RobotModel(env, motion)
        self._command = env.unwrapped.command_manager.get_term("motion")
        self._robot = env.unwrapped.scene["robot"]
        self._action = env.unwrapped.action_manager.get_term("joint_pos")
        targets = robot_model.joint_targets()
        self._targets = torch.tensor(targets, dtype=torch.float32)
        # At a third of the motion the squat has three quarters of its depth: one set of gains
        # from there serves the standing and the deepest pose as well.
        gains = robot_model.feedback(len(targets) // 3, control_cost=30.0)
        self._gains = torch.tensor(gains, dtype=torch.float32)

    def __call__(self, obs: TensorDict | None = None) -> torch.Tensor:
        """Actions (N, 29) for the environments' current state, whatever a policy observes."""
        targets = self._targets[self._command.time_steps] - self._state_error() @ self._gains.T
        return (targets - self._action.offset) / self._action.scale

    def _state_error(self) -> torch.Tensor:
        """Robot minus motion (N, 70), laid out as in ``RobotModel``."""
        state, motion = self._robot.data, self._command
        turn = quat_mul(quat_inv(motion.body_quat_w[:, 0]), state.root_link_quat_w)
        # The motion's root does not turn, so its angular velocity needs no change of frame.
        error = [
            state.root_link_pos_w - motion.body_pos_w[:, 0],
            2.0 * turn[:, 1:] * turn[:, :1].sign(),
            state.joint_pos - motion.joint_pos,
            state.root_link_lin_vel_w - motion.body_lin_vel_w[:, 0],
            state.root_link_ang_vel_b - motion.body_ang_vel_w[:, 0],
            state.joint_vel - motion.joint_vel,
        ]
        return torch.cat(error, dim=-1)


@torch.no_grad()
def roll_out(
    env: RslRlVecEnvWrapper, policy: Policy, teacher: Teacher, action_noise: float = 0.0
) -> Rollout:
    """Run every environment from the motion's start to its first end, with noise on the actions."""
    command = env.unwrapped.command_manager.get_term("motion")
    alive = torch.ones(env.num_envs, dtype=torch.bool)
    success = torch.zeros_like(alive)
    drop, error, steps = torch.zeros(3, env.num_envs).unbind()
    seen, labels = [], []
    obs, _ = env.reset()
    start_height = command.body_pos_w[:, 0, 2].clone()
    while alive.any():
        seen.append(obs["clean"][alive].clone())
        labels.append(teacher()[alive])
        error += alive * (command.robot_anchor_pos_w - command.anchor_pos_w).norm(dim=-1)
        steps += alive
        height = command.robot_body_pos_w[:, 0, 2]
        drop = torch.where(alive, drop.maximum(start_height - height), drop)
        action = policy(obs)
        obs, _, dones, extras = env.step(action + action_noise * torch.randn_like(action))
        success |= alive & extras["time_outs"]
        alive &= ~dones.bool()
    return Rollout(torch.cat(seen), torch.cat(labels), success, drop, error / steps)


def noise_range(env: RslRlVecEnvWrapper) -> torch.Tensor:
    """Half width of the uniform noise on each of the actor's observations (160,)."""
    manager = env.unwrapped.observation_manager
    widths = []
    terms, dims = manager.active_terms["actor"], manager.group_obs_term_dim["actor"]
    for term, dim in zip(terms, dims, strict=True):
        noise = manager.get_term_cfg("actor", term).noise
        widths.append(torch.full(dim, 0.0 if noise is None else noise.n_max))
    return torch.cat(widths)


def train_actor(
    env: RslRlVecEnvWrapper,
    runner: MjlabOnPolicyRunner,
    teacher: Teacher,
    *,
    rounds: int,
    steps: int,
) -> None:
    """Regress the runner's actor on the teacher, then on ``rounds`` rollouts of its own, too."""
    actor, noise = runner.alg.get_policy(), noise_range(env)

    def noisy(obs: torch.Tensor) -> TensorDict:
        """The actor's input: clean observations (S, 160) with fresh uniform noise."""
        rows = obs + noise * (2.0 * torch.rand_like(obs) - 1.0)
        return TensorDict({"actor": rows}, batch_size=[len(obs)])

    rollout = roll_out(env, teacher, teacher, action_noise=0.2)
    print(f"teacher: success {rollout.success.float().mean():.3f}", flush=True)
    obs, labels = rollout.obs, rollout.labels
    for round_ in range(rounds + 1):
        error = regress(actor, noisy, obs, labels, steps)
        print(f"round {round_}: {len(obs)} observations, rms error {error:.4f}", flush=True)
        if round_ < rounds:
            rollout = roll_out(env, runner.get_inference_policy("cpu"), teacher)
            print(f"student: success {rollout.success.float().mean():.3f}", flush=True)
            obs = torch.cat([obs, rollout.obs])
            labels = torch.cat([labels, rollout.labels])
    _set_action_std(runner, labels.std(dim=0))


def _set_action_std(runner: MjlabOnPolicyRunner, action_spread: torch.Tensor) -> None:
    """Give the actor a small exploration noise, larger for the joints that move more."""
    std = 0.05 + 0.05 * action_spread / action_spread.max()
    with torch.no_grad():
        runner.alg.get_policy().distribution.std_param.copy_(std)


def evaluate(motion: Path, expert: Path, num_envs: int, seed: int) -> float:
    """Success rate of the expert, read back from its file, in fresh environments."""
    env = make_env(motion, num_envs, seed)
    runner = make_runner(env)
    runner.load(str(expert), load_cfg={"actor": True}, strict=True, map_location="cpu")
    start = time.perf_counter()
    rollout = roll_out(env, runner.get_inference_policy("cpu"), Teacher(env, motion))
    rate, done = rollout.success.float().mean().item(), rollout.success
    print(
        f"test, seed {seed}: success {rate:.3f}, "
        f"root drop {rollout.root_drop[done].mean():.3f} m, "
        f"torso error {rollout.anchor_error[done].mean():.3f} m, "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )
    env.close()
    return rate


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for both files")
    parser.add_argument("--envs", type=int, default=96, help="parallel environments")
    parser.add_argument("--rounds", type=int, default=4, help="rollouts of the student")
    parser.add_argument("--regression-steps", type=int, default=1500, help="per round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", type=int, default=3, help="test runs, each with its own seed")
    return parser.parse_args()


def main() -> None:
    """Make, save and test both assets."""
    args = parse_args()
    wp.config.quiet = True
    args.output.mkdir(parents=True, exist_ok=True)
    motion, expert = args.output / MOTION_NAME, args.output / EXPERT_NAME
    write_squat_motion(motion)
    torch.manual_seed(args.seed)
    env = make_env(motion, args.envs, args.seed)
    runner = make_runner(env)
    teacher = Teacher(env, motion)
    train_actor(env, runner, teacher, rounds=args.rounds, steps=args.regression_steps)
    save_actor(runner, expert)
    env.close()
    for test in range(args.tests):
        evaluate(motion, expert, args.envs, seed=args.seed + 1 + test)


if __name__ == "__main__":
    main()
