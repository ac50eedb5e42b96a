"""``ExpertTrajectoryCollector``: MOSAIC's class, same calls, with a store on disk underneath.

    from whole_body_tracking.collection import ExpertTrajectoryCollector       before
    from mosaic_collect import ExpertTrajectoryCollector                       after

Steps are copied and streamed to a store as they come, so memory stays at the writer's ring however
long the run is, and a killed run leaves all but its last seconds. ``save`` exports the store.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import time
from typing import Any

import numpy as np
import torch

from mosaic_collect.checks import is_tensor, local_path, unreadable
from mosaic_collect.errors import CorruptExportError, ExportError, InputError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.export.target import check_target
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.inputs import StepCheck, env_indices
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.ranks import Address, blobs_at
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.store.view import Resume, goes_on

_log = logging.getLogger(__name__)
_COUNT = "num_trajectories"  # in the store's metadata: trajectories that were marked as ended
_LISTS = ("data_buffer", "valid_masks")  # where MOSAIC's class keeps all steps
_ENDING = ".npy"
_MIB = 1024 * 1024


class ExpertTrajectoryCollector:
    """Collects the steps of expert policies, as MOSAIC's class of this name does.

    Args:
        obs_dim: Width of the teacher's observations.
        action_dim: Width of the actions.
        student_obs_dim: Width of the student's observations; None: they are not recorded.
        max_trajectories: Once so many were marked as ended, further steps are not stored.
        device: Accepted as in MOSAIC; steps are staged on the device of their observations.
        store: Store that steps are streamed to; None: a new one in the working directory, named in
            the log.
        resume: Go on with the store of an earlier run; "auto": if there is one.
        extra: More fields, to be given to ``add_step`` by name.
        writer: Further options of ``TrajectoryWriter``, such as ``buffer_mb``.

    Attributes:
        store: The store's path; it is made by the first step.
        num_trajectories: Marked as ended.

    Raises:
        InputError: A width is no whole number of at least 1.
        StoreError: The store cannot be made or gone on with; see ``TrajectoryWriter``.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        student_obs_dim: int | None = None,
        max_trajectories: int = 1000,
        device: Any = "cpu",
        *,
        store: Address | None = None,
        resume: Resume = False,
        extra: tuple[Field, ...] = (),
        **writer: Any,
    ) -> None:
        self.schema = Schema.mosaic(obs_dim, action_dim, student_obs_dim, extra)
        self.obs_dim, self.action_dim, self.student_obs_dim = obs_dim, action_dim, student_obs_dim
        self.max_trajectories, self.device = max_trajectories, device
        self._blobs = blobs_at(_new_store() if store is None else store, "store")
        self._options = writer
        self._writer: TrajectoryWriter | None = None
        self._saved_steps = -1
        self._said: set[str] = set()
        # Whether the store is there, so that the next step goes on with it.
        self._exists = goes_on(self._blobs, resume)
        self.num_trajectories = 0
        self._num_valid: Any = 0  # a number, or a tensor on the mask's device
        self._stored = (0, 0)  # of these two, what the store had when it was read last
        if self._exists:
            self._count_stored()

    def add_step(
        self,
        /,
        observations: Any,
        actions: Any,
        action_mean: Any = None,
        action_sigma: Any = None,
        student_observations: Any = None,
        valid_mask: Any = None,
        **extra: Any,
    ) -> None:
        """Add one step of all environments; everything is copied before this returns.

        Args:
            observations: Observations that the teacher acted on, ``(num_envs, obs_dim)``, tensor or
                array.
            actions: ``(num_envs, action_dim)``.
            action_mean: Mean of the policy, like ``actions``; None on all steps: the actions.
            action_sigma: Standard deviation of the policy, like ``actions``; None on all steps:
                0.01.
            student_observations: ``(num_envs, student_obs_dim)``, on every step if the collector
                has a ``student_obs_dim``; without one they are left out, as MOSAIC does.
            valid_mask: Mask of the rows that count, ``(num_envs,)``; None: all.
            **extra: The extra fields.

        Raises:
            InputError: A value is missing or of a wrong shape; nothing was added.
            WriteError: Writing failed; what was committed stays.
        """
        if self.num_trajectories >= self.max_trajectories:
            self._warn_once(
                f"reached max_trajectories={self.max_trajectories}: further steps are left out"
            )
            return
        if self.student_obs_dim is None and student_observations is not None:
            self._warn_once("student_observations are left out, for there is no student_obs_dim")
            student_observations = None
        mask = valid_mask
        if mask is not None and unreadable(mask) is None:  # else the writer refuses it
            # MOSAIC takes any numbers.
            mask = mask.detach().bool() if is_tensor(mask) else np.asarray(mask).astype(bool)
        rows = {
            "observations": observations,
            "actions": actions,
            "action_mean": action_mean,
            "action_sigma": action_sigma,
            "student_observations": student_observations,
            **extra,
        }
        writer = self._writer or self._open(rows, mask)
        writer.add_step(**rows, valid_mask=mask)
        # Without asking a GPU for its sum at each step.
        self._num_valid = self._num_valid + (writer.num_envs if mask is None else mask.sum())

    def mark_trajectory_end(self, count: int = 1, env_ids: Any = None) -> None:
        """Trajectories ended with the last step.

        Args:
            count: How many, where it is not known which, a number or a tensor of one; the store's
                trajectory ids then stay as they are, but for all environments at once.
            env_ids: Environments whose trajectories ended, as whole numbers or a bool mask;
                ``count`` is then their number.

        Raises:
            InputError: Not such environments, or a negative count.
        """
        count = int(count) if env_ids is None else self._end(env_ids)
        if count < 0:
            raise InputError(f"count: expected 0 or more, got {count}")
        if env_ids is None and self._writer is not None and count == self._writer.num_envs:
            self._end(range(count))
        self.num_trajectories += count
        if self._writer is not None:
            self._writer.update_metadata(**{_COUNT: self.num_trajectories})

    def save(self, save_path: str | os.PathLike[str], **options: Any) -> None:
        """Export all steps so far as MOSAIC's file; collecting may go on afterwards.

        Args:
            save_path: The file; its folder is made if need be. MOSAIC loads only ``*.npy``, so a
                name without that gets it, which is said in the log.
            options: Options of ``export_npy``, such as ``layout``, ``fields`` or ``max_pairs``.

        Raises:
            ExportError: Nothing was collected, or no valid row.
            WriteError: The file cannot be written; the store is as it was.
        """
        path = local_path(save_path, "save_path")
        if not path.endswith(_ENDING):
            _log.warning("MOSAIC loads only names ending in .npy: saving to %s%s", path, _ENDING)
            path += _ENDING
        if not self._exists:
            raise ExportError(f"{path}: nothing was collected yet")
        if self._writer is not None:
            self._writer.commit()
            self._saved_steps = self._writer.num_steps
        progress = options.pop("progress", None)
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        check_target(path, [self.store])
        # A store knows trajectories only with their environments.
        told = {"num_trajectories": self.num_trajectories}
        asked = Options(**{"allow_incomplete": True, **options}, metadata=told)
        report = plan_export(self._blobs, asked).write(path, progress)
        _log.info("saved %d pairs, %s, to %s", report.num_pairs, report.layout, path)

    @staticmethod
    def load(load_path: str | os.PathLike[str], device: Any = "cpu") -> dict[str, Any]:
        """Read a file of ``save``, or of MOSAIC's collector.

        Such files are pickles, but nothing in one is run: what is neither array nor plain value is
        refused.

        Args:
            load_path: The file.
            device: Device of the returned tensors.

        Returns:
            Per key a tensor, and ``metadata``, a dict.

        Raises:
            FileNotFoundError: No such file.
            CorruptExportError: The file holds no such dict; the message names what it holds.
        """
        path = local_path(load_path, "load_path")
        try:
            content = read_npy(path)
        except CorruptExportError as error:
            raise CorruptExportError(f"expected a whole .npy file of arrays: {error}") from error
        if "metadata" not in content:
            raise CorruptExportError(f"{path}: expected a dict of arrays with metadata")
        metadata = content.pop("metadata")
        others = [key for key, value in content.items() if not isinstance(value, np.ndarray)]
        if others:
            raise CorruptExportError(f"{path}: expected arrays, got others for {', '.join(others)}")
        tensors = {key: torch.from_numpy(value).to(device) for key, value in content.items()}
        return {**tensors, "metadata": metadata}

    def clear(self) -> None:
        """Begin anew, in a store beside the old one, which is kept and completed."""
        self.close()
        self._blobs, self._exists = blobs_at(_beside(self.store)), False
        self.num_trajectories, self._num_valid, self._stored = 0, 0, (0, 0)

    def get_statistics(self) -> dict[str, Any]:
        """Counts, widths, and ``memory_usage_mb``: the memory really taken, in MiB."""
        ring = 0 if self._writer is None else self._writer.ring_nbytes
        return {
            "num_trajectories": self.num_trajectories,
            "num_steps": self.num_steps,
            "avg_steps_per_trajectory": self.num_steps / max(1, self.num_trajectories),
            "obs_dim": self.obs_dim,
            "student_obs_dim": self.student_obs_dim,
            "action_dim": self.action_dim,
            "memory_usage_mb": ring / _MIB,
        }

    def __getattr__(self, name: str) -> Any:
        if name in _LISTS:
            raise AttributeError(
                f"{name}: steps are in the store {self.store} and not in memory; read them with "
                "TrajectoryDataset"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def store(self) -> str:
        """Where the steps are."""
        return self._blobs.address

    @property
    def num_steps(self) -> int:
        """Valid pairs collected; all pairs where no mask is given."""
        return int(self._num_valid)

    def close(self) -> None:
        """Commit all steps and mark the store complete; a later step would go on with it."""
        if self._writer is not None:
            atexit.unregister(self._at_exit)
            self._writer.close()
            self._writer = None
            self._stored = self._read_stored()

    def _open(self, rows: dict[str, Any], mask: Any) -> TrajectoryWriter:
        """The writer, for a first step that is known to be good."""
        observations: Any = rows.get("observations")
        num_envs = len(observations) if getattr(observations, "ndim", 0) == 2 else 0
        given = {name: value for name, value in rows.items() if value is not None}
        StepCheck(self.schema, num_envs).check(given, mask, {})
        device = observations.device if is_tensor(observations) else "cpu"
        self._writer = TrajectoryWriter(
            self._blobs,
            self.schema,
            num_envs,
            device=device,
            resume=self._exists,
            **self._options,
        )
        if self._exists:
            self._count_stored()  # another run may have ended since the store was looked at
        self._exists = True
        # Runs before the writer's own, which could not know that all was saved.
        atexit.register(self._at_exit)
        return self._writer

    def _count_stored(self) -> None:
        """Add what the store has by now, and had not when it was read last."""
        stored, before = self._read_stored(), self._stored
        self.num_trajectories += stored[0] - before[0]
        self._num_valid = self._num_valid + stored[1] - before[1]
        self._stored = stored

    def _read_stored(self) -> tuple[int, int]:
        known = TrajectoryDataset(self._blobs)
        return int(known.metadata.get(_COUNT, 0)), known.num_valid

    def _end(self, env_ids: Any) -> int:
        if self._writer is None:
            return 0
        ids = env_indices(env_ids, self._writer.num_envs).tolist()
        self._writer.end_trajectories(ids)
        return len(ids)

    def _at_exit(self) -> None:
        writer = self._writer
        if writer is not None and writer.num_steps == self._saved_steps:
            self.close()

    def _warn_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            _log.warning("%s", words)


def _new_store() -> str:
    """The path of a store in the working directory, not made yet."""
    path = os.path.abspath(time.strftime("expert_trajectories-%Y%m%d-%H%M%S.zarr"))
    path = _beside(path) if blobs_at(path).is_taken() else path
    _log.warning("no store was named: steps are streamed to %s", path)
    return path


def _beside(path: str) -> str:
    """A free name like ``path``'s, with a number."""
    stem, ending = os.path.splitext(path.rstrip(os.sep))
    names = (f"{stem}-{number}{ending}" for number in itertools.count(2))
    return next(name for name in names if not blobs_at(name).is_taken())
