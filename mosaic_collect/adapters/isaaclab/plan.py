"""What the flags of ``scripts/collect_expert_trajectories.py`` come to, before any simulator."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mosaic_collect.adapters.isaaclab.checkpoint import (
    TrainingRun,
    checkpoint_problems,
    named_checkpoint,
)
from mosaic_collect.adapters.isaaclab.options import CollectOptions, MotionOptions
from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.motions import Motion, find_motions
from mosaic_collect.collection.ranks import Rank, RankStore
from mosaic_collect.collection.student import read_student
from mosaic_collect.errors import InputError, StoreExistsError
from mosaic_collect.export.options import AUTO
from mosaic_collect.npyfile.layout import GRID
from mosaic_collect.store.objects import is_url

#: The lowest values that make sense; every process must have a trajectory to collect, too.
_LEAST = {
    "num_envs": 1,
    "steps_per_env": 1,
    "max_steps": 1,
    "start_index": 0,
    "student_obs_history": 0,
}


@dataclass(frozen=True)
class Plan:
    """What one process is going to do.

    Attributes:
        store: Path or URL of the store; of a ``distributed`` collection the folder of all ranks.
        own_store: The store of this process, in that folder.
        npy: Export of ``own_store``; None: none is wanted.
        num_envs: Number of environments: as given, but at most one per motion; on resume the
            store's.
        found: All motions, twins once.
        motions: Which of them it shall go through, and how much of each.
    """

    store: str
    own_store: str
    npy: str | None
    num_envs: int
    found: list[Motion]
    motions: MotionOptions

    def options(self, args: argparse.Namespace, overrides: Sequence[str]) -> CollectOptions:
        """What the engine is told.

        Args:
            args: As ``of`` was given them, Isaac Lab's own flags among them.
            overrides: Of Hydra, which were left of the command line.
        """
        # Isaac Lab's --device has a default, which is no wish.
        asked = args.device if getattr(args, "device_explicit", False) else None
        return CollectOptions(
            task=args.task,
            checkpoint=named_checkpoint(args),
            training_run=TrainingRun.of(args),
            output=self.store,
            max_steps=args.max_steps,
            motion=args.motion,
            passes=1,
            num_envs=self.num_envs,
            device=asked,
            seed=args.seed,
            student_task=args.student_task,
            student_history=args.student_obs_history,
            student_noise=not args.disable_student_noise,
            student_drop=args.student_drop,
            student_overrides=args.student_overrides,
            allow_fps=args.allow_fps,
            resample=args.resample,
            **_acting(args),
            resume=args.resume,
            distributed=args.distributed,
            allow_changed=None,
            stop_on_nonfinite=args.stop_on_nonfinite,
            trust_checkpoint=args.trust_checkpoint,
            buffer_mb=args.buffer_mb,
            tasks_module=args.tasks_module,
            overrides=overrides,
            terminations=not args.disable_terminations,
            choice=self.motions,
            notes={"flags": vars(args)},
        )

    @classmethod
    def of(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
        """Check the flags, before a simulator takes minutes to start.

        Args:
            args: Parsed.
            environ: With torchrun's variables, if ``--distributed``.

        Raises:
            InputError: A flag that makes no sense, with all others that make none; motion files
                that cannot be played, all of them; or falls are to be left out of a store that
                does not know them.
            StoreError: ``--resume``, and the store cannot be read; or it is there without.
        """
        rank, world = 0, 1
        if args.distributed:
            number = Rank.of(environ)
            rank, world = number.number, number.world_size
        problems = _problems(args, world)
        if problems:
            raise InputError("; ".join(problems))
        wants_npy = args.output_path.endswith(".npy")
        store = args.store or os.path.splitext(args.output_path)[0] + ".zarr"
        seat = RankStore.of(store, args.distributed, environ)
        if not args.resume and seat.store.is_taken():
            raise StoreExistsError(
                f"{store} exists: --resume goes on with it, --store names another"
            )
        motions = MotionOptions(
            start_index=args.start_index,
            end_index=args.end_index,
            steps_per_trajectory=args.steps_per_env,
            max_trajectories=_share(args.max_trajectories, rank, world),
        )
        npy = _of_rank(args.output_path, rank) if args.distributed else args.output_path
        found = find_motions(os.path.realpath(args.motion))  # as MOSAIC resolves it
        chosen = motions.chosen(found)
        known = seat.known(args.resume)
        if known and known.fields and args.exclude_falls and not known.schema.has_ends:
            raise InputError(f"exclude_falls: {store} does not know which ends were falls")
        num_envs = known.num_envs if known else 0
        num_envs = num_envs or min(args.num_envs, -(-len(chosen) // world))
        return cls(store, seat.store.address, npy if wants_npy else None, num_envs, found, motions)


def _problems(args: argparse.Namespace, world: int) -> list[str]:
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, least in (*_LEAST.items(), ("max_trajectories", world))
        if (value := getattr(args, name)) is not None and value < least
    ]
    if not args.output_path.endswith((".npy", ".zarr")):
        problems.append(f"output_path: expected *.npy or *.zarr, got {args.output_path}")
    if args.output_path.endswith(".npy") and is_url(args.output_path):
        problems.append(f"output_path: expected *.npy on this machine, got {args.output_path}")
    if args.output_path.endswith(".zarr") and args.store:
        problems.append("store: expected only with an output_path ending in .npy")
    if args.output_path.endswith(".zarr") and args.layout != AUTO:
        problems.append("layout: expected only with an output_path ending in .npy")
    if args.exclude_falls and not args.output_path.endswith(".npy"):
        problems.append("exclude_falls: expected only with an output_path ending in .npy")
    if args.exclude_falls and args.layout == GRID:
        problems.append("exclude_falls: a grid holds every pair; use --layout compact")
    return problems + checkpoint_problems(args) + _acting_problems(args)


def _acting(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Acting`` is told, but for the seed and the trust, which are the collection's."""
    names = {f.name for f in fields(Acting)} - {"seed", "trust_student"}
    return {name: getattr(args, name) for name in sorted(names)}


def _acting_problems(args: argparse.Namespace) -> list[str]:
    try:
        acting = Acting(**_acting(args), trust_student=args.trust_checkpoint)
        if acting.student is not None:
            read_student(acting)
    except InputError as error:
        return [str(error)]
    return []


def _share(count: int | None, rank: int, world: int) -> int | None:
    return None if count is None else len(range(count)[rank::world])


def _of_rank(path: str, rank: int) -> str:
    stem, ending = os.path.splitext(path)
    return f"{stem}-rank{rank}{ending}"
