r"""Collect expert trajectories in Isaac Lab, 2.1 to 2.3, with the flags of MOSAIC's own script.

    python scripts/collect_expert_trajectories.py --headless \
        --task Expert-General-Tracking-Flat-G1-MOSAIC-v0 --checkpoint_path model.pt \
        --motion MOTIONS --output_path expert.npy --num_envs 800 --steps_per_env 500 \
        --student_task MOSAIC-Distill-General-Tracking-Flat-G1-v0

Run it with Isaac Lab's Python, with MOSAIC's packages installed. Steps go to a store at once
(``expert.zarr``), so a run that was stopped goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from typing import Any

from isaaclab.app import AppLauncher

from mosaic_collect.adapters.isaaclab.checkpoint import newest_checkpoint, wandb_run
from mosaic_collect.adapters.isaaclab.flags import Plan, add_arguments, optional
from mosaic_collect.commands.options import in_flags
from mosaic_collect.errors import InputError, MosaicCollectError
from mosaic_collect.text import any_text


def parse() -> tuple[argparse.Namespace, list[str], Plan]:
    """The flags, what is left for Hydra, and what they come to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    required = add_arguments(parser)
    with optional(required):
        AppLauncher.add_app_launcher_args(parser)
    args, hydra = parser.parse_known_args()
    try:
        return args, hydra, Plan.of(args, os.environ)
    except MosaicCollectError as error:
        parser.error(in_our_words(error, args))


def in_our_words(error: Exception, args: argparse.Namespace) -> str:
    """The library's message with this script's flags, whose names are as in MOSAIC's."""
    return in_flags(str(error), args, {name: f"--{name}" for name in vars(args)})


def checkpoint_of(args: argparse.Namespace, agent_cfg: Any) -> str:
    """Where the teacher's checkpoint is: named, on Weights & Biases, or in the logs."""
    named = args.checkpoint_path or args.resume_student_checkpoint
    if named:
        return os.path.abspath(named)
    if args.wandb_path:
        return _download(args.wandb_path)
    from isaaclab_tasks.utils import get_checkpoint_path

    experiment = args.experiment_name or agent_cfg.experiment_name
    logs = os.path.abspath(os.path.join("logs", "rsl_rl", experiment))
    run = args.load_run or agent_cfg.load_run
    return str(get_checkpoint_path(logs, run, args.checkpoint or agent_cfg.load_checkpoint))


def _download(wandb_path: str) -> str:
    import wandb

    run_path, named = wandb_run(wandb_path)
    run = wandb.Api().run(run_path)
    name = named or newest_checkpoint([file.name for file in run.files()])
    folder = os.path.join("logs", "rsl_rl", "temp")
    run.file(name).download(folder, replace=True)
    return os.path.abspath(os.path.join(folder, name))


def student_group(args: argparse.Namespace, env_cfg: Any) -> Any:
    """The policy group that the student observes, not a copy; None if there is no student."""
    import gymnasium
    from isaaclab_tasks.utils import load_cfg_from_registry

    if args.student_task is None:
        return env_cfg.observations.policy if args.student_obs_history is not None else None
    gymnasium.spec(args.student_task)  # says which tasks there are, if it is none of them
    cfg = load_cfg_from_registry(args.student_task, "env_cfg_entry_point")
    group = getattr(cfg.observations, "policy", None)
    if group is None:
        raise InputError(f"student_task: {args.student_task} has no observations.policy")
    return group


def collect(args: argparse.Namespace, plan: Plan, env_cfg: Any, agent_cfg: Any) -> None:
    """Make the environment, load the teacher, record, export."""
    import gymnasium
    from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper

    from mosaic_collect.adapters.isaaclab.cfg import (
        add_student_group,
        prepare_env_cfg,
        prepare_motion_cfg,
    )
    from mosaic_collect.adapters.isaaclab.collect import collect_motions
    from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint
    from mosaic_collect.adapters.rsl_rl.load import load_policy
    from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict, json_safe
    from mosaic_collect.collection.origin import Origin, file_identity
    from mosaic_collect.collection.progress import ProgressBar
    from mosaic_collect.collection.rates import played_folder, rate_notes

    prepare_env_cfg(env_cfg, plan.num_envs, terminations=not args.disable_terminations)
    group = student_group(args, env_cfg)
    if group is not None:
        add_student_group(env_cfg, group, not args.disable_student_noise, args.student_obs_history)
    if args.seed is not None:
        env_cfg.seed = args.seed
    checkpoint = checkpoint_of(args, agent_cfg)
    origin = Origin(
        simulator="isaaclab",
        task=args.task,
        checkpoint=file_identity(checkpoint),
        runner_cfg=json_safe(config_dict(agent_cfg)),
        observations={
            "student_task": args.student_task,
            "student_history": args.student_obs_history,
            "student_noise": not args.disable_student_noise,
        },
        acting=plan.acting.told(),
        limits={"steps_per_env": args.steps_per_env},
        ranks=(plan.motions.rank, plan.motions.world),
        notes={
            "seed": env_cfg.seed,
            "command": sys.argv[0],
            "flags": json_safe(vars(args)),
        },
    )
    teacher = Checkpoint.read(checkpoint, args.trust_checkpoint)
    steps = 1.0 / (env_cfg.sim.dt * env_cfg.decimation)  # a second
    with played_folder(
        args.motion, plan.found, steps, allow_fps=args.allow_fps, resample=args.resample
    ) as (folder, motions):
        prepare_motion_cfg(env_cfg.commands.motion, folder, plan.acting.start, motions)
        env = RslRlVecEnvWrapper(
            gymnasium.make(args.task, cfg=env_cfg, render_mode=None),
            clip_actions=getattr(agent_cfg, "clip_actions", None),
        )
    try:
        device, by_mean = env.unwrapped.device, plan.acting.by_mean
        trust = args.trust_checkpoint
        policy = load_policy(
            env, agent_cfg, teacher, device, deterministic=by_mean, trust_checkpoint=trust
        )
        with ProgressBar(plan.motions.max_steps, f"{plan.num_motions} motions") as bar:
            queue = collect_motions(
                env,
                policy,
                plan.store,
                plan.motions,
                origin,
                resume=args.resume,
                on_step=bar,
                acting=plan.acting,
                motions=motions,
                stop_on_nonfinite=args.stop_on_nonfinite,
                buffer_mb=args.buffer_mb,
            )
    finally:
        env.close()
    print(f"{plan.store}: {queue.completed} trajectories to their end, {queue.fell} fell before")
    for note in rate_notes(queue.present):
        print(f"  {note}")
    export(plan, args.layout, args.exclude_falls)


def export(plan: Plan, layout: str, exclude_falls: bool) -> None:
    """The ``.npy``, if one is asked for."""
    from tqdm import tqdm

    from mosaic_collect import export_npy

    if plan.npy is None:
        return
    asked = {"layout": layout, "exclude_failed": exclude_falls}
    with tqdm(unit="B", unit_scale=True, desc="export") as bar:
        report = export_npy(plan.store, plan.npy, **asked, progress=bar.update)
    print(
        f"{plan.npy}: {report.num_pairs} pairs, {report.layout}, {report.file_nbytes / 1e9:.2f} GB"
    )
    if exclude_falls:
        print(f"  {report.left_out.failed} pairs of trajectories that fell are left out")
    for note in report.notes:
        print(f"  {note}")


def run(args: argparse.Namespace, hydra: list[str], plan: Plan, launcher: Any) -> None:
    """All that needs the simulator."""
    importlib.import_module(args.tasks_module)
    from isaaclab_tasks.utils.hydra import hydra_task_config

    sys.argv = [sys.argv[0], *hydra]

    @hydra_task_config(args.task, "rsl_rl_cfg_entry_point")
    def main(env_cfg: Any, agent_cfg: Any) -> None:
        if args.distributed:
            env_cfg.sim.device = agent_cfg.device = f"cuda:{launcher.local_rank}"
        elif args.device is not None:
            env_cfg.sim.device = args.device
        collect(args, plan, env_cfg, agent_cfg)

    main()


if __name__ == "__main__":
    any_text(sys.stdout)
    arguments, left, what = parse()
    app = AppLauncher(arguments)
    code = 0
    try:
        run(arguments, left, what, app)
    except MosaicCollectError as error:
        traceback.print_exc()
        print(in_our_words(error, arguments), file=sys.stderr)
        code = 1
    except BaseException:  # noqa: BLE001  told, and then an exit code
        # Closing the app may end the process at once, with nobody told why.
        traceback.print_exc()
        code = 1
    finally:
        app.app.close()
    sys.exit(code)
