"""A Unitree G1 that follows motions in Isaac Lab 3, on Newton's physics: importing registers it.

``G1-Teacher`` is what an expert acts on: 160 noisy numbers. ``G1-Student`` observes what a robot
can measure, five frames of it: 770. Both are resolved by Isaac Lab's presets:

    presets=clean       the teacher without noise
    presets=short       the student with two frames
    presets=time_major  the student's frames one after the other, all terms of each together
"""

from pathlib import Path

import gymnasium

TEACHER, STUDENT = "G1-Teacher", "G1-Student"
NUM_ACTIONS = 29
#: A checkpoint of the teacher's task: scripts/make_isaaclab_expert.py made it.
EXPERT = Path(__file__).parents[1] / "assets" / "g1_isaaclab_expert.pt"

#: Options of PPO in the runner's config.
PPO = {
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "clip_param": 0.2,
    "entropy_coef": 0.001,
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "learning_rate": 1.0e-4,
    "schedule": "adaptive",
    "gamma": 0.99,
    "lam": 0.95,
    "desired_kl": 0.01,
    "max_grad_norm": 1.0,
}

for _id, _cfg in ((TEACHER, "TeacherEnvCfg"), (STUDENT, "StudentEnvCfg")):
    gymnasium.register(
        id=_id,
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={
            "env_cfg_entry_point": f"{__name__}.task:{_cfg}",
            "rsl_rl_cfg_entry_point": f"{__name__}.agent:AgentCfg",
        },
    )
