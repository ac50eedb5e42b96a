"""What ``collect`` takes; what is not given stays as the simulator's options have it."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from mosaic_collect.adapters.isaaclab.options import CollectOptions as IsaacLabOptions
from mosaic_collect.collection.acting import STARTS, Acting
from mosaic_collect.commands.options import add_options
from mosaic_collect.commands.shared import add_resume, add_writer
from mosaic_collect.recording.encoding.process import ENCODE_IN

MJLAB, ISAACLAB = "mjlab", "isaaclab"
#: What only Isaac Lab is told, but for what only programs tell.
ISAACLAB_ONLY = ("tasks_module", "overrides", "launcher", "student_task", "student_overrides")
_N: dict[str, Any] = {"type": int, "metavar": "N"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them, by what they are of."""
    _add_task(parser)
    _add_motions(parser.add_argument_group("motions"))
    add_acting(parser.add_argument_group("who acts"))
    _add_sight(parser.add_argument_group("what is seen"))
    _add_store(parser.add_argument_group("the store"))
    _add_ranks(parser.add_argument_group("many ranks"))
    _add_isaaclab(parser.add_argument_group("Isaac Lab, 2.1 to 2.3 and 3"))


def add_acting(group: argparse._ActionsContainer, between: str = "-") -> None:
    """Options of who acts; arguments as ``add_options`` takes them."""
    more: dict[str, Any] = {
        "action_noise": {"metavar": "SIGMA"},
        "act_by": {"metavar": "WHO"},
        "act_share": {"metavar": "SHARE"},
        "push": {"metavar": "SIGMA"},
        "start": {"choices": STARTS},
    }
    add_options(group, Acting, but=("seed", "trust_student"), between=between, **more)


def _add_task(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sims = (MJLAB, ISAACLAB)
    add("--sim", choices=sims, default=MJLAB, help="the simulator (default %(default)s)")
    add("--task", required=True, help="a registered task of it")
    add("--checkpoint", required=True, metavar="FILE", help="an rsl_rl checkpoint of the policy")
    add(
        "--trust-checkpoint",
        action="store_true",
        help="let code run that the checkpoint or a student's file holds; else they are refused",
    )
    add("--output", required=True, metavar="STORE", help="where to record, a folder or a URL")
    add("--max-steps", **_N, help="steps of the store in all; needed without --passes")
    add("--num-envs", **_N, help="environments; default 64, or the store's")
    add("--device", help="cpu or cuda:0; default: CUDA if there is one")
    add("--seed", **_N, help="of noise; default: 0 in mjlab, the task's own in Isaac Lab")


def _add_motions(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add("--motion", metavar="PATH", help="a motion .npz, or a folder of them, at any depth")
    add("--passes", **_N, help="trajectories of each; default: go round to --max-steps")
    add("--resample", action="store_true", help="those of other rates, to the task's steps")
    add("--allow-fps", action="store_true", help="play those frame by frame, at another speed")


def _add_sight(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add("--no-teacher-noise", action="store_false", dest="teacher_noise", help="policy sees none")
    add("--no-student-noise", action="store_false", dest="student_noise", help="student sees none")
    add(
        "--student-history",
        **_N,
        help="frames of the student; default: 5 in mjlab, where 0 makes no student; in Isaac Lab "
        "as the student's task has it, and no student if nothing of it is said",
    )
    add(
        "--student-drop",
        nargs="+",
        metavar="TERM",
        help="terms of the policy's group that the student does without; default in mjlab: "
        "motion_anchor_pos_b and base_lin_vel",
    )


def _add_store(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add_resume(group, "the store")
    add(
        "--allow-changed",
        nargs="+",
        default=[],
        metavar="NAME",
        help="on resume, what may differ: task, checkpoint, motions, observations, acting",
    )
    add("--record-states", action="store_true", help="MuJoCo's state, too, for 'replay'")
    add("--stop-on-nonfinite", action="store_true", help="end with the first NaN or infinity")
    add_writer(group)
    add("--encode-in", choices=ENCODE_IN, default="auto", help="default: by how much is recorded")
    add(
        "--commit-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="what was added this long ago survives a kill (default %(default)g)",
    )


def _add_ranks(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--distributed",
        action="store_true",
        help="be one of torchrun's ranks: --output is a folder with a store of each, motions are "
        "shared out, the device is that of the local rank",
    )
    group.add_argument(
        "--take-over",
        nargs="+",
        type=int,
        default=[],
        metavar="RANK",
        help="ranks that will not come back: the others record what they had not finished",
    )


def _add_isaaclab(group: argparse._ActionsContainer) -> None:
    more: dict[str, Any] = {
        "tasks_module": {"metavar": "MODULE"},
        "overrides": {"metavar": "NAME=VALUE"},
        "launcher": {"metavar": "FLAGS"},
        "student_task": {"metavar": "TASK"},
        "student_overrides": {"metavar": "NAME=VALUE"},
    }
    others = {f.name for f in fields(IsaacLabOptions)} - set(ISAACLAB_ONLY)
    add_options(group, IsaacLabOptions, but=others, **more)
