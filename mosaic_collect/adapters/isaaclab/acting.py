"""Flags of ``scripts/collect_expert_trajectories.py`` that say who acts, and how disturbed."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mosaic_collect.collection.acting import FIRST, MEAN, STARTS, Acting
from mosaic_collect.errors import InputError


def add_acting(group: Any) -> None:
    """Add them to a parser or a group of one."""
    group.add_argument(
        "--action_noise",
        type=float,
        default=0.0,
        help="largest standard deviation of what is added to each action; each trajectory's own is "
        "drawn uniformly from 0 to it",
    )
    group.add_argument(
        "--act_by",
        default=MEAN,
        help="mean or sample of the teacher, or a student's TorchScript, which acts in a share of "
        "the steps while the teacher labels",
    )
    group.add_argument("--act_share", type=float, help="that share; default: a half")
    group.add_argument(
        "--push",
        type=float,
        default=0.0,
        help="largest standard deviation of pushes, m/s along x and y, in one step of 25",
    )
    group.add_argument(
        "--start", choices=STARTS, default=FIRST, help="frame on which trajectories begin"
    )


def acting_of(args: argparse.Namespace) -> Acting:
    """What the flags say of who acts.

    Raises:
        InputError: A flag that makes no sense.
    """
    return Acting(
        action_noise=args.action_noise,
        act_by=args.act_by,
        act_share=args.act_share,
        push=args.push,
        start=args.start,
        seed=args.seed or 0,
    )


def acting_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with them."""
    try:
        acting = acting_of(args)
    except InputError as error:
        return [str(error)]
    if acting.student is not None and not os.path.isfile(acting.student):
        return [f"act_by: expected mean, sample or a student's file, got {acting.student!r}"]
    return []
