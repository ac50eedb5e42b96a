"""A store as it was when it was looked at: its state, and the committed rows behind it."""

from __future__ import annotations

from bisect import bisect_left
from concurrent.futures import Executor
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import (
    CorruptStoreError,
    StoreError,
    StoreLostError,
    StoreNotFoundError,
)
from mosaic_collect.store.blobs import Blobs, Version
from mosaic_collect.store.cuts import Cut, cuts
from mosaic_collect.store.label import ShardLabel
from mosaic_collect.store.metadata import StoreState, open_envs
from mosaic_collect.store.root import read_state
from mosaic_collect.store.schema import GOES_ON, TRAJECTORY_END
from mosaic_collect.store.shard import ShardReader


class StoreView:
    """An immutable snapshot of a store; decodes only the chunks that are asked for.

    Pickles with its state: another process sees the same steps, whatever was committed meanwhile.

    Args:
        blobs: The store's.
        state: What its root document said.

    Attributes:
        grids: All stored fields' cuttings, by name.
    """

    def __init__(self, blobs: Blobs, state: StoreState) -> None:
        self.blobs, self.state = blobs, state
        self.grids = state.grids()
        self._codec = state.compressor.codec()
        stopped = [(run, steps[-1]) for run, steps in state.spans() if steps]
        self._stopped, self._stops = [run for run, _ in stopped], [step for _, step in stopped]

    @classmethod
    def of(cls, blobs: Blobs) -> StoreView | None:
        """The store as it is now; None for one killed before its first commit.

        Raises:
            StoreError: As ``read_state``'s.
        """
        state = read_state(blobs)
        return None if state is None else cls(blobs, state)

    def __reduce__(self) -> Any:
        return StoreView, (self.blobs, self.state)

    @property
    def address(self) -> str:
        """Where the store lies."""
        return self.blobs.address

    def require_seen(self) -> None:
        """Make sure that the store is here: for a process that was handed the view of another.

        Raises:
            StoreLostError: Another store lies there, or it has fewer steps.
            StoreError, OSError: As ``read_state``'s.
        """
        now, then = read_state(self.blobs), self.state
        if (
            now is None
            or _origin(now) != _origin(then)
            or now.committed_steps < then.committed_steps
        ):
            raise StoreLostError(
                f"{self.address}: another store, or an older state of it, lies there"
            )

    def shard(self, field: str, block: int) -> ShardReader:
        """The shard of a field and block.

        Raises:
            CorruptStoreError: It is missing, its index damaged, or it belongs elsewhere.
            StoreLostError: Because the store was made anew since it was looked at.
        """

        def problem(label: ShardLabel) -> str | None:
            return label.problem(self.state, field, block)

        check = problem if self.state.identity else None
        try:
            return ShardReader(self.blobs, self.grids[field], self._codec, block, check)
        except CorruptStoreError as error:
            self._require_same(error)
            raise

    def _require_same(self, error: CorruptStoreError) -> None:
        """A store that was made anew has other shards, and they are as they should be."""
        try:
            now = read_state(self.blobs)
            changed = now is None or now.identity != self.state.identity
        except StoreNotFoundError:
            changed = True
        except (StoreError, OSError):
            changed = False
        if changed:
            raise StoreLostError(
                f"{self.address}: the store that was opened is gone, and what lies there now was "
                "made since; open it anew, or refresh()"
            ) from error

    def find(self, field: str, block: int) -> Version | None:
        """What the shard of a field and block is; None if it is not there."""
        return self.blobs.find(self.grids[field].shard_key(block))

    def versions(self, field: str) -> list[Version]:
        """What a field's shards are, those that are there."""
        there, grid = self.blobs.versions(field), self.grids[field]
        # By what is there, for the state may claim any number of blocks.
        numbers = (name.split(".")[1] for name in there if name.startswith("c."))
        blocks = sorted(int(n) for n in numbers if n.isdecimal())
        names = [grid.shard_name(b) for b in blocks if b < self.state.num_blocks]
        return [there[name] for name in names if name in there]

    def columns(self, field: str) -> list[range]:
        """The environments of each of a field's chunks."""
        width, num_envs = self.grids[field].chunk_envs, self.state.num_envs
        return [range(e, min(e + width, num_envs)) for e in range(0, num_envs, width)]

    def read(
        self, field: str, steps: range, envs: range, pool: Executor | None = None
    ) -> NDArray[Any]:
        """Rows of some steps and environments.

        Args:
            field: A stored field's name.
            steps: Ascending, all committed.
            envs: Ascending.
            pool: Decodes chunks side by side; None: one after the other.

        Returns:
            Shape ``(len(steps), len(envs)[, dim])``, C-contiguous, the caller's own. Ends that were
            recorded but not committed are absent from ``trajectory_end``.

        Raises:
            CorruptStoreError: A damaged chunk, or a shard that is missing.
        """
        grid = self.grids[field]
        out = np.empty((len(steps), len(envs), *grid.field.row_shape), grid.field.dtype)
        env_cuts = list(cuts(envs, grid.chunk_envs))
        in_block = grid.block_steps // grid.chunk_steps
        step_cuts = cuts(steps, grid.chunk_steps) if env_cuts else ()
        for block, of_block in groupby(step_cuts, lambda cut: cut.cell // in_block):
            with self.shard(field, block) as shard:

                def decode(at: tuple[Cut, Cut], shard: ShardReader = shard) -> None:
                    step, env = at
                    values = np.empty(grid.chunk_shape, grid.field.dtype)
                    shard.read(step.cell % in_block * grid.env_chunks + env.cell, values)
                    out[step.out, env.out] = values[env.inside, step.inside].swapaxes(0, 1)

                _run(pool, decode, list(product(of_block, env_cuts)))
        if field == TRAJECTORY_END:
            self.clear_uncommitted_ends(steps, envs, out)
        return out

    def clear_uncommitted_ends(self, steps: range, envs: range, ends: NDArray[Any]) -> None:
        """Remove ends that a shard holds and the root document does not know.

        A kill between the two leaves the shard ahead by the ends of a run's last row.

        Args:
            steps: Committed steps, ascending.
            envs: Environments, ascending.
            ends: Their values, ``(len(steps), len(envs))``; changed in place.
        """
        first, stop = (bisect_left(self._stops, step) for step in (steps.start, steps.stop))
        for last_step, run in zip(self._stops[first:stop], self._stopped[first:stop], strict=True):
            if last_step in steps:
                row = ends[steps.index(last_step)]
                still_open = open_envs(run.open_envs, self.state.num_envs)
                row[still_open[envs.start : envs.stop : envs.step]] = GOES_ON

    def read_into(self, field: str, block: int, out: NDArray[Any]) -> None:
        """Decode a whole shard, padding and steps not committed yet included.

        Args:
            field: A stored field's name.
            block: Which.
            out: Shape ``(padded_envs, block_steps[, dim])``, of any strides.

        Raises:
            CorruptStoreError: A damaged chunk, or the shard is missing.
        """
        grid = self.grids[field]
        values = np.empty(grid.chunk_shape, grid.field.dtype)
        with self.shard(field, block) as shard:
            for chunk in range(grid.chunks):
                shard.read(chunk, values)
                out[grid.rows(chunk)] = values


def _origin(state: StoreState) -> Any:
    """What tells a store from others, those of format version 1 among them."""
    return state.identity, state.num_envs, [(run.started, run.key) for run in state.runs[:1]]


def _run(pool: Executor | None, work: Any, items: list[tuple[Cut, Cut]]) -> None:
    each = map if pool is None or len(items) == 1 else pool.map
    for _ in each(work, items):
        pass
