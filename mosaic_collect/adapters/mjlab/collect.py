"""``mosaic-collect collect --sim mjlab``: what the engine needs of a task of mjlab's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from mosaic_collect.adapters.mjlab.simulation import MjlabOptions, MjlabSimulation, runner_cfg
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into
from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.collection.motion_queue import MotionQueue, refuse_gone
from mosaic_collect.collection.motions import find_motions
from mosaic_collect.collection.origin import Origin, file_identity
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.collection.record import Watch

__all__ = ["CollectOptions", "CollectResult", "run_collect"]


@dataclass(frozen=True, kw_only=True)
class CollectOptions(MjlabOptions, RecordOptions):
    """One collection of an mjlab task; see ``MjlabOptions`` and ``RecordOptions``."""


def run_collect(options: CollectOptions, on_step: Watch | None = None) -> CollectResult:
    """``collect_into``, in mjlab."""
    options.check()
    seat = RankStore.of(options.output, options.distributed)
    return collect_into(options, Mjlab(options, seat), on_step, seat)


class Mjlab:
    """A ``mosaic_collect.adapters.rsl_rl.collect.Simulator``."""

    def __init__(self, options: CollectOptions, seat: RankStore) -> None:
        self._options, self._seat = options, seat
        self.checkpoint = options.checkpoint

    def origin(self) -> Origin:
        options = self._options
        return Origin(
            simulator="mjlab",
            task=options.task,
            checkpoint=file_identity(options.checkpoint),
            runner_cfg=runner_cfg(options.task),
            observations={
                "teacher_noise": options.teacher_noise,
                "student_history": options.student_history,
                "student_noise": options.student_noise,
                **options.dropped(),
            },
            acting=options.acting.told(),
            ranks=self._seat.ranks,
            notes={"seed": options.seed, "passes": options.passes},
        )

    def queue(self, told: Mapping[str, Any]) -> MotionQueue | None:
        options = self._options
        if options.motion is None:
            return None
        motions = find_motions(options.motion)
        refuse_gone(motions, told, options.output, options.allow_changed)
        return MotionQueue(motions, options.passes, told)

    @contextmanager
    def opened(
        self, queue: MotionQueue | None, num_envs: int, run: int
    ) -> Iterator[MjlabSimulation]:
        options, rank, seed = self._options, self._seat.rank, self._options.seed or 0
        now = replace(options, num_envs=num_envs, seed=seed + run)
        if rank is not None:
            device = rank.device(options.device, torch.cuda.is_available())
            now = replace(now, device=device, seed=rank.seed(seed, run))
        simulation = MjlabSimulation(now, queue)
        try:
            yield simulation
        finally:
            simulation.close()
