"""Expert batches of MOSAIC's training straight from stores, instead of a loaded ``.npy``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from mosaic_collect.errors import ClosedError, InputError
from mosaic_collect.reading.selection import chosen_fields
from mosaic_collect.sampling.loader import BatchLoader
from mosaic_collect.sampling.options import STREAM
from mosaic_collect.sampling.source import Stores, named, open_views

_log = logging.getLogger(__name__)
_NEEDED = ("_sample_expert_batch", "off_policy_batch_size", "use_off_policy_bc", "device")
_LABELS = ("actions", "action_mean", "action_sigma")
_DECIDED = ("batch_size", "fields", "finite_fields", "mode", "device", "replace")

Batch = dict[str, torch.Tensor]


def attach(
    algorithm: Any,
    stores: Stores,
    shuffle_buffer_mb: float = 512,
    *,
    reuse: float = 4,
    **options: Any,
) -> ExpertBatches:
    """Let MOSAIC's algorithm draw its expert batches from stores.

    For a training script, between the runner's making and ``learn``, with
    ``expert_trajectory_path=None`` in the config, so that nothing is loaded:

        runner = OnPolicyRunner(env, agent_cfg.to_dict(), log_dir=log_dir, device=agent_cfg.device)
        attach(runner.alg, "expert.zarr", shuffle_buffer_mb=2048)

    Batches have the keys, shapes, type and device that the algorithm's own have of an export of
    these stores: the student's observations, if they are recorded, as ``observations``. Pairs are
    those of a compact export. The algorithm's switches stay in force at each call:
    ``off_policy_batch_size``, ``expert_allow_repeat_sampling``, its weights and its losses. Every
    rank draws a stream of its own.

    Args:
        algorithm: ``rsl_rl.algorithms.MOSAIC`` of MOSAIC's fork.
        stores: Stores as passed to ``BatchLoader``.
        shuffle_buffer_mb: Size of the shuffle buffer on the algorithm's device, in 10^6 bytes.
        reuse: Average number of times each decoded pair is drawn. More is faster.
        options: More options of ``BatchLoader``: filters, ``seed``, ``threads``.

    Returns:
        The source of the batches, with ``refresh`` and ``close``.

    Raises:
        InputError: Not such an algorithm, one that has loaded a file, no observations, or an option
            that the algorithm decides.
        StoreError: A store cannot be read.
    """
    missing = [name for name in _NEEDED if not hasattr(algorithm, name)]
    if missing:
        raise InputError(
            f"algorithm: expected MOSAIC's, got {type(algorithm).__name__} without "
            f"{', '.join(missing)}"
        )
    if getattr(algorithm, "expert_data", None) is not None:
        raise InputError(
            f"algorithm: it has loaded {algorithm.expert_trajectory_path} already: set "
            "expert_trajectory_path=None in its config"
        )
    decided = [name for name in _DECIDED if name in options]
    if decided:
        raise InputError(f"{', '.join(decided)}: that is as the algorithm has it, leave it out")
    drawn = ExpertBatches(
        algorithm, stores, {"shuffle_buffer_mb": shuffle_buffer_mb, "reuse": reuse, **options}
    )
    algorithm._sample_expert_batch = drawn.batch
    algorithm.use_off_policy_bc = True
    algorithm.expert_trajectory_path = drawn.address
    _tell(algorithm, drawn.loader)
    return drawn


class ExpertBatches:
    """Replacement of ``_sample_expert_batch``, as ``attach`` makes it.

    Attributes:
        address: Addresses of the stores.
        loader: Loader of the batches; replaced when the algorithm's batch size changes.
    """

    def __init__(self, algorithm: Any, stores: Stores, options: dict[str, Any]) -> None:
        self._algorithm = algorithm
        views = open_views(named(stores), bool(options.get("allow_incomplete")))
        self.address = ", ".join(view.address for view in views)
        schema = views[0].state.schema
        given = [n for n in ("student_observations", "observations") if n in schema.names]
        if not given:
            raise InputError(f"no field observations or student_observations, only {schema.names}")
        self._observations = given[0]
        self._options = {
            "rank": getattr(algorithm, "gpu_global_rank", 0),
            "world_size": getattr(algorithm, "gpu_world_size", 1),
            **options,
            "fields": [given[0], *(label for label in _LABELS if label in schema.names)],
            "finite_fields": [field.name for field in chosen_fields(schema, None)],
            "mode": STREAM,
            "device": algorithm.device,
        }
        self._made, self._is_closed = 0, False
        self._stream: Iterator[Batch] | None = None
        self.loader = BatchLoader(stores, algorithm.off_policy_batch_size, **self._options)
        self._draw_anew()

    def batch(self) -> Batch | None:
        """The next batch; None while the algorithm's own switch is off.

        Raises:
            ClosedError: ``close`` was called.
            StoreError: A store cannot be read. The next call tries again, as after an interrupt.
        """
        if not self._algorithm.use_off_policy_bc:
            return None
        if self._is_closed:
            raise ClosedError("expert batches: close() was called; attach the stores again")
        if self._drawn != self._asked():
            self._draw_anew()
        # An iteration that an error or interrupt ends begins anew with the next call.
        stream, self._stream = self._stream or iter(self.loader), None
        drawn = next(stream)
        self._stream = stream
        found = {"observations": drawn[self._observations]}
        found.update({name: drawn[name] for name in _LABELS if name in drawn})
        return {n: t.reshape(len(t), -1).to(torch.float32) for n, t in found.items()}

    def refresh(self) -> None:
        """See what was committed meanwhile: from the next batch on."""
        self.loader.refresh()

    def close(self) -> None:
        """End its threads, and give the pool's memory back; no batch can be drawn then."""
        self._is_closed = True
        self.loader.close()

    def _asked(self) -> tuple[int, bool]:
        """Pairs of a batch, and whether one may come twice; if not, at most all of them."""
        repeat = bool(getattr(self._algorithm, "expert_allow_repeat_sampling", False))
        size = self._algorithm.off_policy_batch_size
        return size if repeat else min(size, self.loader.num_pairs), repeat

    def _draw_anew(self) -> None:
        """Draw by the algorithm's switches, from the same pairs; not the batches of before."""
        asked = self._asked()
        loader = self.loader.with_batches(*asked)
        loader.set_epoch(self._made)
        self.loader.close()
        self.loader, self._drawn, self._stream = loader, asked, None
        self._made += 1


def _tell(algorithm: Any, loader: BatchLoader) -> None:
    """Log the number of expert pairs, and warn if the algorithm will draw none."""
    _log.info("Total expert pairs: %s, drawn from %r", f"{loader.num_pairs:,}", loader)
    if getattr(algorithm, "hybrid", True) is False:
        _log.warning("hybrid=False: this update draws no expert batch")
    if getattr(algorithm, "lambda_off_policy_current", 1) <= 0:
        _log.warning("lambda_off_policy is 0: no expert batch will be drawn")
    summary = getattr(algorithm, "_print_init_summary", None)
    if summary is not None:
        summary()
