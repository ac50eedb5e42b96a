"""Random minibatches from stores larger than memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace as replaced
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from mosaic_collect.checks import whole
from mosaic_collect.errors import InputError
from mosaic_collect.reading.moments import chosen_moments
from mosaic_collect.reading.selection import Side
from mosaic_collect.sampling.device import find_device
from mosaic_collect.sampling.options import EPOCHS, STREAM, LoaderOptions, Mode
from mosaic_collect.sampling.order import Position, rank_share, rest_of_epoch, rest_of_stream
from mosaic_collect.sampling.pool import Batch, Pool
from mosaic_collect.sampling.prefetch import PoolRunner
from mosaic_collect.sampling.source import PairSource, SharedState, Stores

_log = logging.getLogger(__name__)
_FEW_TILES = 4  # below that, batches hardly mix


class BatchLoader(IterableDataset[Batch]):
    """Random minibatches straight from stores of any size, in memory of bounded size.

    A batch is a dict of tensors ``(B[, D])``, one per field, in the stored type; it belongs to the
    caller. Pairs are those of a compact export of the same fields: valid, finite in every field,
    and left by the filters below. Memory use: the shuffle buffer, about 10 MB per thread, and up to
    four batches.

    ``mode="epochs"``: an iteration is one epoch. ``mode="stream"``: it never ends. A batch is drawn
    from the shuffle buffer, which threads refill meanwhile.

    Exact:

    - An epoch holds every pair once, over all ranks and workers, if every rank has as many workers
      (``drop_last`` leaves out at most one batch per rank). Ranks have equally many batches, if
      they see the same steps (``refresh``).
    - A pair is equally likely at every place of an epoch, where tiles hold equally many pairs.
    - If the stores fit the shuffle buffer, an epoch is a uniform shuffle of all pairs, and a batch
      of a stream is a uniform draw from all of them. Each pair is decoded once.
    - Batches depend on the stores' committed steps, ``seed``, ``rank``, ``world_size``,
      ``batch_size``, ``fields``, ``shuffle_buffer_mb``, the filters and the number of workers.
      They do not depend on time or on ``threads``. A saved state continues with the same batches.

    Approximate, where the stores do not fit the shuffle buffer:

    - Batches of an epoch mix about 12 tiles at a time: pieces of some tens of megabytes, such as 64
      steps of 100 environments; of windows about 6, twice as large. Two pairs of one tile come
      nearer to each other than in a uniform shuffle. A larger buffer mixes more.
    - A batch of a stream is a uniform draw from such a buffer. Each decoded pair is drawn ``reuse``
      times on average. Over many passes each pair comes equally often.

    Another buffer size, batch size, number of ranks or workers, and newly seen steps change the
    order.

    Args:
        stores: Path of a store, a ``TrajectoryDataset``, or several of them with equal fields. They
            may still be recorded: ``refresh`` sees what was committed.
        batch_size: Pairs per batch.
        fields: Names of fields; default: MOSAIC's if the store has observations, else all.
        mode: "epochs" or "stream".
        seed: Seed of all random numbers.
        rank: Rank of this process. Ranks share an epoch, and draw different streams.
        world_size: Number of ranks.
        shuffle_buffer_mb: Size of the shuffle buffer on ``device`` in megabytes (10^6 bytes), with
            28 bytes per pair on the host for drawing from it. Workers share it.
        device: Device of the batches. On "cuda" the shuffle buffer is there, too, and the device
            gathers batches; tiles pass through page-locked memory.
        drop_last: Leave out pairs that do not fill a batch.
        reuse: Average number of times each decoded pair of a stream is drawn before it leaves the
            shuffle buffer.
        window: Draw windows of so many consecutive steps, H, in place of pairs: tensors
            ``(B, H[, D])``. The rows of a window are consecutive chosen pairs of one trajectory: a
            pair that is invalid, or left out by a filter, ends a window as the trajectory's end
            does. Batches, epochs, ``num_pairs`` and ``reuse`` count windows.
        stride: Steps between the first rows of windows, counted from each first row behind such an
            end.
        padding: Let windows begin at any such step, also less than H steps before an end. The rows
            behind the end repeat the last one, and ``batch["padding_mask"]``, bool ``(B, H)``, is
            true there. Otherwise all H rows of a window exist.
        replace: Draw a stream's batch with replacement. Otherwise a pair comes again in a batch
            only after every pair of the buffer has come.
        threads: Number of threads that decode, and of threads that copy; default: one per
            processor, at most 4.
        pin_memory: Put batches into page-locked memory, for ``.to(..., non_blocking=True)``.
        steps: Slice or range of every store's steps to keep.
        trajectories: Values of ``trajectory_id`` to keep, as a dataset of the same stores numbers
            them now. They stay the same trajectories when stores grow.
        motions: Motions to keep: names of their files, with or without ending, or ids.
        split: Side of a split by trajectory to keep, ``"train"`` or ``"validation"``. A trajectory
            keeps its side when its store grows, is copied, or is read with others. Exports take the
            same options.
        validation_fraction: Expected fraction of the trajectories on the validation side.
        split_seed: Seed of the split.
        exclude_interrupted: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed.
        skip_damaged: Leave out pairs in damaged chunks; all fields are read once to find them. A
            chunk that is damaged later is an error until ``refresh``.
        finite_fields: More fields in which NaN or infinity leaves a pair out, beside ``fields``: a
            loader of some fields then draws the pairs of an export of more.
        allow_different: Provenance in which several stores may differ, as of ``export_npy``.
        allow_incomplete: Continue without the stores of ranks that joined a recording and are
            missing.

    Raises:
        InputError: An option makes no sense, or no pair is left.
        StoreMismatchError: The stores' fields or their provenance differ.
        IncompleteStoreError: The store of a rank is missing.
        StoreError: A store cannot be read.
    """

    def __init__(
        self,
        stores: Stores,
        batch_size: int,
        fields: Sequence[str] | None = None,
        mode: Mode = "epochs",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle_buffer_mb: float = 512,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
        reuse: float = 4,
        *,
        window: int | None = None,
        stride: int = 1,
        padding: bool = False,
        replace: bool = False,
        threads: int | None = None,
        pin_memory: bool = False,
        steps: slice | range | str | None = None,
        trajectories: Iterable[int] | None = None,
        motions: Sequence[str | int] | None = None,
        split: Side | None = None,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        exclude_interrupted: bool = False,
        exclude_failed: bool = False,
        skip_damaged: bool = False,
        finite_fields: Sequence[str] | None = None,
        allow_different: Sequence[str] = (),
        allow_incomplete: bool = False,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "stores", "device")}
        self._options = LoaderOptions(**given)
        self.device = find_device(device)
        self._source = PairSource(stores, self._options)
        self._position, self._goes_on = Position(), False
        self._runner = PoolRunner(self._options, self.device)
        self._shared = SharedState()

    def __repr__(self) -> str:
        address, mode = self._source.tiles.table.address, self._options.mode
        return f"<BatchLoader {address}: {self.num_pairs} pairs, {mode}>"

    @property
    def num_pairs(self) -> int:
        """Number of pairs, or windows, to draw from, over all ranks."""
        return self._source.tiles.num_pairs

    @property
    def committed(self) -> list[int]:
        """Steps of each store that are seen."""
        return self._source.committed

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank.

        Raises:
            TypeError: A stream has no end.
        """
        if self._options.mode == STREAM:
            raise TypeError("a stream has no length")
        return rank_share(self.num_pairs, self._options)[2]

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, or what a loaded state leaves of it; or the stream, from where it is.

        Another iteration ends this one. In a ``DataLoader`` (``batch_size=None``) each worker gives
        its share of the batches; if workers are not persistent, call ``set_epoch`` before each
        epoch. Persistent workers count epochs, and learn of ``set_epoch`` and ``refresh`` when the
        ``DataLoader`` is iterated again.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        published = None if info is None else self._shared.receive()
        if published is not None:
            self._restore(published)
        run = self._epoch if self._options.mode == EPOCHS else self._stream
        return run(worker, workers)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, or its stream; without a call epochs are counted.

        Raises:
            InputError: No whole number from 0.
        """
        self._position, self._goes_on = Position(epoch=whole(epoch, "epoch", 0)), False
        self._publish()

    def refresh(self, committed: Sequence[int] | None = None) -> None:
        """See newly committed steps, from the next epoch or the stream's next batch on.

        In folders of ranks, also by ranks that had no step yet. A loader's ranks look at a store
        that is being recorded one after the other, and would see different steps of it: give all of
        them ``committed`` of the first. How trajectories of these steps ended may still be told
        later, so ``exclude_failed`` and ``exclude_interrupted`` may leave out others for each.
        ``trajectories`` stay those that they were when the loader was made.

        Args:
            committed: Steps of each store to see; None: all that are there.

        Raises:
            InputError: A store has fewer; maybe not before the next iteration.
        """
        self._source.request(committed)
        if not self._runner.is_busy and not self._goes_on:
            self._source.look_again()
            self._publish()

    def state_dict(self) -> dict[str, Any]:
        """Position of the iteration and the pairs that it draws from, as plain numbers and names.

        This is the state of this process. Each worker of a ``DataLoader`` has a state of its own.
        """
        return self._source.state(self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state: the next iteration yields the batches that it would have.

        Steps that were committed since, and ranks that recorded their first step since, are left
        out until ``refresh``.

        Raises:
            InputError: The state is of other stores, options or pairs.
        """
        self._restore(state)
        self._publish()

    def _restore(self, state: dict[str, Any]) -> None:
        source, position = self._source.restored(state)
        self.close()
        self._source, self._position, self._goes_on = source, position, True

    def _publish(self) -> None:
        """Have persistent workers of this process begin their next iteration here."""
        if get_worker_info() is None:
            self._shared.publish(self.state_dict())

    def moments(self, *fields: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and standard deviation of every feature over all pairs, in one pass.

        Args:
            fields: Names of the loader's fields; default: all float fields.

        Returns:
            Per field, two float32 tensors ``([D])`` on ``device``; the deviation is that of the
            pairs themselves (divided by their number).

        Raises:
            InputError: No such field.
        """
        tiles = self._source.tiles
        known = {f.name: f for f in tiles.fields}
        for name in fields:
            if name not in known:
                raise InputError(f"field {name!r}: expected one of {', '.join(known)}")
        names = list(fields) or [f.name for f in tiles.fields if f.is_float]
        found = chosen_moments(tiles.table, tiles.selection, names, self._options.threads)

        def tensor(name: str, values: NDArray[np.float64]) -> torch.Tensor:
            values = values.reshape(known[name].row_shape).astype(np.float32)
            return torch.from_numpy(values).to(self.device)

        with torch.inference_mode(False):
            return {n: (tensor(n, m.mean), tensor(n, np.sqrt(m.var))) for n, m in found.items()}

    def close(self) -> None:
        """End an iteration, its threads, and give the pool's memory back; another may begin."""
        self._runner.close()

    def with_batches(self, batch_size: int, replace: bool = False) -> BatchLoader:
        """A loader of the same pairs that gives other batches; its own iteration begins anew.

        Args:
            batch_size: Pairs per batch.
            replace: Draw a stream's batch with replacement.

        Raises:
            InputError: An option makes no sense.
        """
        other = copy.copy(self)
        other._options = replaced(self._options, batch_size=batch_size, replace=replace)
        other._source = self._source.with_options(other._options)
        other._position, other._goes_on = Position(), False
        other._runner = PoolRunner(other._options, self.device)
        other._shared = SharedState()
        return other

    def _epoch(self, worker: int, workers: int) -> Iterator[Batch]:
        if self._position.batches and not self._goes_on:
            self._position = Position(epoch=self._position.epoch + 1)
        yield from self._run(worker, workers)
        self._position = Position(epoch=self._position.epoch + 1)

    def _stream(self, worker: int, workers: int) -> Iterator[Batch]:
        while True:  # it begins anew where it is when there is more to draw from
            yield from self._run(worker, workers)

    def _run(self, worker: int, workers: int) -> Iterator[Batch]:
        is_stream = self._options.mode == STREAM
        rest = rest_of_stream if is_stream else rest_of_epoch
        made = rest(self._begin(worker, workers), self._options, self._position)
        for batch, position in self._runner.run(made, self._batch_nbytes):
            self._position = position
            yield self._handed(batch)
            del batch  # or it could not be used again
            if self._source.is_stale and is_stream:
                break

    @property
    def _batch_nbytes(self) -> int:
        pairs = self._options.batch_size * (self._options.window or 1)
        return pairs * sum(f.row_nbytes for f in self._source.tiles.fields)

    def _begin(self, worker: int, workers: int) -> Pool:
        """A pool for an iteration, of what the stores hold by now unless it is to go on."""
        self._position = self._position.of(worker, workers, self._goes_on)
        if self._source.is_stale and not self._goes_on:
            self._runner.stop()
            self._source.look_again()
        self._goes_on = False
        tiles = self._source.tiles_for(workers)
        if tiles.active < min(_FEW_TILES, len(tiles.tiles)):
            _log.warning(
                "batches mix the pairs of %s of %s pieces of the stores at a time: a larger "
                "shuffle_buffer_mb, which workers share, mixes more",
                *(tiles.active, len(tiles.tiles)),
            )
        return self._runner.pool_for(tiles)

    def _handed(self, batch: Batch) -> Batch:
        if self.device.type == "cuda":
            for tensor in batch.values():
                tensor.record_stream(torch.cuda.current_stream(self.device))
        return batch
