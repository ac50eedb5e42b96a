"""Random minibatches from stores larger than memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from mosaic_collect.checks import whole
from mosaic_collect.sampling.batches import Batch
from mosaic_collect.sampling.device import find_device
from mosaic_collect.sampling.machine import Machine
from mosaic_collect.sampling.moments import moments
from mosaic_collect.sampling.options import EPOCHS, STREAM, SamplerOptions
from mosaic_collect.sampling.pool import Pool
from mosaic_collect.sampling.position import Position, check_state, state_of, told
from mosaic_collect.sampling.rest import rest_of_epoch, rest_of_stream
from mosaic_collect.sampling.seen import Seen
from mosaic_collect.sampling.snapshot import PoolPlan, Stores


class Sampler(IterableDataset[Batch]):
    """Random minibatches straight from stores of any size, in memory of bounded size.

    A batch is a dict of tensors ``(B[, D])``, one a field, in the stored type and the caller's own.
    Pairs are those that a compact export of the same fields would hold: valid, finite in every
    field, and what the filters below leave. Memory is the pool, some 10 MB a thread, and the
    batches themselves: the one that is held, and up to three on their way.

    ``mode="epochs"``: an iteration is one epoch. ``mode="stream"``: it never ends; a batch is drawn
    from the pool, which decoding renews meanwhile.

    What is exact:

    - An epoch holds every pair once, over all ranks and workers (``drop_last`` leaves out a batch
      a rank at most). Ranks have equally many batches, if they see the same steps (``refresh``).
    - A pair is equally likely at every place of an epoch, where tiles hold equally many pairs.
    - If the stores fit the pool, an epoch is a shuffle of all pairs, each as likely as any other,
      and a stream's batch is a uniform draw from all of them; they are decoded once.
    - Batches depend on the stores' committed steps, ``seed``, ``rank``, ``world_size``,
      ``batch_size``, ``fields``, ``pool_mb``, the filters and the number of workers: not on time,
      not on ``threads``. With a state, batches go on as they would have.

    What is approximate, where the stores do not fit the pool:

    - Epochs mix the tiles that are in the pool: about 12 of pieces of some tens of megabytes, 64
      steps of 100 environments, say, which were drawn from all. Each batch is a shuffle of these
      tiles' pairs. So two pairs of one tile come nearer to each other than they would by chance,
      and a batch holds more such twos than a true draw. A larger pool mixes more.
    - A stream's batch is a uniform draw from such a pool, ``uses`` times as many pairs are drawn as
      are decoded, and each pair about so often while it is there. Over many passes each pair comes
      equally often.

    What changes the order: another pool, batch size, number of ranks or workers, and any step that
    is committed and seen.

    Args:
        stores: The path of a store, a ``TrajectoryDataset``, or several of them, which must have
            these fields alike. They may still be recorded: ``refresh`` sees what was committed.
        batch_size: Pairs of a batch.
        fields: Names; default: MOSAIC's, or all if the store has none.
        mode: "epochs" or "stream".
        seed: Of all that is random.
        rank: Of this process; ranks share an epoch, and draw different streams.
        world_size: Number of ranks.
        pool_mb: Memory of the pool, on ``device``, and of 28 bytes a pair for drawing from it, on
            the host; 10^6 bytes. Workers share it.
        device: Where batches are to be. On "cuda" the pool is there, too, and batches are gathered
            by the device; tiles pass through page-locked memory.
        drop_last: Leave out what does not fill a batch.
        uses: Of a decoded pair in a stream, about.
        replace: Whether a stream's batch is drawn with replacement. If not, a pair comes again in a
            batch only after every pair of the pool has come.
        threads: That decode, and as many that copy; default: the processors, at most 4.
        pin_memory: Batches in page-locked memory, for ``.to(..., non_blocking=True)``.
        steps: A slice or range of every store's steps: what lies outside is left out.
        trajectories: Ids to keep, as ``trajectory_id``; those of a second store are raised by the
            number of ids that the first has used, and so on.
        exclude_truncated: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed.
        skip_damaged: Leave out pairs in damaged chunks; all fields are read once to find them.

    Raises:
        InputError: An option makes no sense, or no pair is left.
        StoreMismatchError: The stores' fields differ.
        StoreError: A store cannot be read.
    """

    def __init__(
        self,
        stores: Stores,
        batch_size: int,
        fields: Sequence[str] | None = None,
        mode: str = EPOCHS,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool_mb: float = 512,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
        uses: float = 4,
        *,
        replace: bool = False,
        threads: int | None = None,
        pin_memory: bool = False,
        steps: slice | range | None = None,
        trajectories: Iterable[int] | None = None,
        exclude_truncated: bool = False,
        exclude_failed: bool = False,
        skip_damaged: bool = False,
    ) -> None:
        self._options = SamplerOptions(
            batch_size=batch_size,
            fields=fields,
            mode=mode,
            seed=seed,
            rank=rank,
            world_size=world_size,
            pool_mb=pool_mb,
            drop_last=drop_last,
            uses=uses,
            replace=replace,
            threads=threads,
            pin_memory=pin_memory,
            steps=steps,
            trajectories=trajectories,
            exclude_truncated=exclude_truncated,
            exclude_failed=exclude_failed,
            skip_damaged=skip_damaged,
        )
        self.device = find_device(device)
        self._seen = Seen(stores, self._options)
        self._position, self._goes_on = Position(), False
        self._machine = Machine(self._options, self.device)

    def __repr__(self) -> str:
        paths = ", ".join(view.address for view in self._seen.views)
        return f"<Sampler {paths}: {self.num_pairs} pairs, {self._options.mode}>"

    @property
    def num_pairs(self) -> int:
        """Pairs to draw from, all ranks'."""
        return self._seen.tiles.num_pairs

    @property
    def committed(self) -> list[int]:
        """Steps of each store that are seen."""
        return self._seen.committed

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank.

        Raises:
            TypeError: A stream has no end.
        """
        if self._options.mode == STREAM:
            raise TypeError("a stream has no length")
        return self._seen.share().batches

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, or what a loaded state leaves of it; or the stream, from where it is.

        Another iteration ends this one. In a ``DataLoader`` (``batch_size=None``) each worker gives
        its share of the batches; if workers are not persistent, call ``set_epoch`` before each
        epoch.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        run = self._epoch if self._options.mode == EPOCHS else self._stream
        return run(worker, workers)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is; without a call they are counted. Streams differ, too.

        Raises:
            InputError: No whole number from 0.
        """
        self._position, self._goes_on = Position(epoch=whole(epoch, "epoch", 0)), False

    def refresh(self, committed: Sequence[int] | None = None) -> None:
        """See what was committed meanwhile: from the next epoch on, or the stream's next batch.

        In folders of ranks, also by ranks that had no step yet. A sampler's ranks look at a store
        that is being recorded one after the other, and would see different steps of it: give all of
        them ``committed`` of the first. How trajectories of these steps ended may still be told
        later, so ``exclude_failed`` and ``exclude_truncated`` may leave out others for each.

        Args:
            committed: Steps of each store to see; None: all that are there.

        Raises:
            InputError: A store has fewer; maybe not before the next iteration.
        """
        self._seen.ask(committed)
        if not self._machine.is_busy and not self._goes_on:
            self._seen.look_again()

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is: the batches that were handed out, and what they were of.

        Of this process: each worker of a ``DataLoader`` has a state of its own, and this does not
        know what workers gave.
        """
        return state_of(self._options, self._seen, self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another sampler was: the next iteration gives the batches it would have.

        Steps that were committed since are left out until ``refresh``.

        Raises:
            InputError: The state is of other stores, options or pairs.
        """
        committed, position = told(state)
        seen = copy.copy(self._seen)
        seen.look(committed, "state")
        check_state(state, state_of(self._options, seen))
        self.close()
        self._seen, self._position, self._goes_on = seen, position, True

    def moments(self, *fields: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and standard deviation of every feature over all pairs, in one pass.

        Args:
            fields: Of the sampler's; none: all floats.

        Returns:
            Per field, two float32 tensors ``([D])`` on ``device``; the deviation is that of the
            pairs themselves (divided by their number).

        Raises:
            InputError: No such field.
        """
        found = moments(self._seen.tiles, fields, self._options.threads or 1)
        shapes = {f.name: f.row_shape for f in self._seen.tiles.fields}

        def tensor(name: str, values: NDArray[np.float64]) -> torch.Tensor:
            values = values.reshape(shapes[name]).astype(np.float32)
            return torch.from_numpy(values).to(self.device)

        with torch.inference_mode(False):
            return {n: (tensor(n, m.mean), tensor(n, np.sqrt(m.var))) for n, m in found.items()}

    def close(self) -> None:
        """End an iteration, its threads, and give the pool's memory back; another may begin."""
        self._machine.close()

    def _epoch(self, worker: int, workers: int) -> Iterator[Batch]:
        if self._position.batches and not self._goes_on:
            self._position = Position(epoch=self._position.epoch + 1)
        pool, plan = self._begin(worker, workers)
        made = rest_of_epoch(pool, plan, self._options, self._seen, self._position)
        for batch in self._machine.run(made, self._batch_nbytes):
            self._position = self._position.behind_batch()
            yield self._handed(batch)
            del batch  # or it could not be used again
        self._position = Position(epoch=self._position.epoch + 1)

    def _stream(self, worker: int, workers: int) -> Iterator[Batch]:
        while True:
            pool, plan = self._begin(worker, workers)
            made = rest_of_stream(pool, plan, self._options, self._seen, self._position)
            for batch, place in self._machine.run(made, self._batch_nbytes):
                self._position = self._position.at(place)
                yield self._handed(batch)
                del batch  # or it could not be used again
                if self._seen.is_stale:
                    break

    @property
    def _batch_nbytes(self) -> int:
        return self._options.batch_size * sum(f.row_nbytes for f in self._seen.tiles.fields)

    def _begin(self, worker: int, workers: int) -> tuple[Pool, PoolPlan]:
        """A pool for an iteration, of what the stores hold by now unless it is to go on."""
        self._position = self._position.of(worker, workers, self._goes_on)
        if self._seen.is_stale and not self._goes_on:
            self._machine.stop()
            self._seen.look_again()
        self._goes_on = False
        return self._machine.pool_for(self._seen.tiles, workers)

    def _handed(self, batch: Batch) -> Batch:
        if self.device.type == "cuda":
            for tensor in batch.values():
                tensor.record_stream(torch.cuda.current_stream(self.device))
        return batch
