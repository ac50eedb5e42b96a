"""Is a store what it says it is? Every checksum, and every agreement of metadata and files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.commit import DOCUMENT, StoreFolder, read_state
from mosaic_collect.ends import end_problems
from mosaic_collect.errors import CorruptStoreError, StoreNotFoundError
from mosaic_collect.files import open_regular
from mosaic_collect.grid import FieldGrid
from mosaic_collect.metadata import StoreState, array_document, root_document
from mosaic_collect.parsing import MAX_DOCUMENT_NBYTES
from mosaic_collect.reading import open_shard
from mosaic_collect.schema import TRAJECTORY_ID, VALID_MASK
from mosaic_collect.stats import all_finite, finite_rows

_THREADS = 4
_MOST_PROBLEMS = 1000


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        path: What was looked at.
        problems: In words, each naming its place; empty if all is well.
        notes: Harmless findings, such as a killed run's leftovers.
        checked: How many shards (of a store) or arrays (of a file).
        nbytes: Bytes read and checked.
        seconds: It took.
    """

    path: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    checked: int
    nbytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def verify_store(
    path: str | os.PathLike[str], progress: Callable[[int], object] | None = None
) -> VerifyReport:
    """Read everything that is committed and hold it against its checksums and the metadata.

    Args:
        path: The store.
        progress: Told the shards checked since the last call.

    Raises:
        StoreNotFoundError, NewerFormatError: Nothing here that could be verified.
    """
    start = time.monotonic()
    name = os.fspath(path)
    try:
        state = read_state(name)
    except StoreNotFoundError:
        raise
    except CorruptStoreError as error:
        return VerifyReport(name, (str(error),), (), 0, 0, time.monotonic() - start)
    if state is None:
        return VerifyReport(name, (), ("killed before its first commit: zero steps",), 0, 0, 0.0)
    check = _StoreCheck(name, state)
    check.documents()
    check.shards(progress or (lambda count: None))
    check.totals()
    seconds = time.monotonic() - start
    problems = tuple(check.problems[:_MOST_PROBLEMS])
    return VerifyReport(name, problems, tuple(check.notes), check.checked, check.nbytes, seconds)


class _StoreCheck:
    """Gathers what is wrong with one store."""

    def __init__(self, path: str, state: StoreState) -> None:
        self._path, self._state = path, state
        self._codec = state.compressor.encoder()
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.checked = self.nbytes = self._num_valid = 0
        self._nonfinite = dict.fromkeys(state.nonfinite, 0)
        self._last_ids = np.full(state.num_envs, -1, np.int64)

    def documents(self) -> None:
        """Hold each ``zarr.json`` against what the state would write."""
        root = self._json(os.path.join(self._path, DOCUMENT))
        if root != json.loads(root_document(self._state)):
            self.problems.append("zarr.json: the consolidated arrays contradict the store's state")
        for field in self._state.schema.stored:
            self._array_document(field.name)
        if self.problems and read_state(self._path) != self._state:
            self.problems.clear()
            self.notes.append("a writer is at work: the zarr.json documents were not compared")

    def shards(self, progress: Callable[[int], object]) -> None:
        """Check every committed shard, block by block in order."""
        missing = StoreFolder(self._path).missing_shards(self._state, _MOST_PROBLEMS)
        if len(missing) == _MOST_PROBLEMS:
            # Not damage but a lie, perhaps of more blocks than could be looked at.
            self.problems.append(f"{len(missing)} or more shards are missing, {missing[0]} first")
            return
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for name, grid in self._state.grids().items():
                for block, result in enumerate(pool.map(self._shard(grid), self._blocks())):
                    self._gather(name, block, *result)
                    progress(1)
                self._leftovers(name, grid)

    def totals(self) -> None:
        """Hold the counts against the metadata; after damage they cannot agree, nor need they."""
        if self.problems:
            return
        if self._num_valid != self._state.num_valid:
            told = self._state.num_valid
            self.problems.append(f"valid_mask: {self._num_valid} valid pairs, metadata says {told}")
        for name, count in self._nonfinite.items():
            if count != self._state.nonfinite[name]:
                told = self._state.nonfinite[name]
                self.problems.append(f"{name}: {count} non-finite pairs, metadata says {told}")
        self.problems += end_problems(self._path, self._state)

    def _blocks(self) -> range:
        return range(self._state.num_blocks)

    def _json(self, path: str) -> Any:
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                return json.loads(file.read(MAX_DOCUMENT_NBYTES))
        except (OSError, ValueError, RecursionError):
            return None

    def _array_document(self, name: str) -> None:
        found = self._json(os.path.join(self._path, name, DOCUMENT))
        shape = found.get("shape") if isinstance(found, dict) else None
        steps = shape[0] if isinstance(shape, list) and shape else None
        if type(steps) is not int or not 0 <= steps <= self._state.committed_steps:
            self.problems.append(f"{name}/zarr.json: missing, damaged, or ahead of the store")
            return
        lagging = replace(self._state, committed_steps=steps)
        if found != json.loads(array_document(lagging, name)):
            self.problems.append(f"{name}/zarr.json: contradicts the store's state")
        elif steps < self._state.committed_steps:
            self.notes.append(
                f"{name}/zarr.json lags at step {steps}: a kill; opening to write mends"
            )

    def _shard(self, grid: FieldGrid) -> Callable[[int], tuple[list[str], int, Any]]:
        def check(block: int) -> tuple[list[str], int, Any]:
            return _check_shard(self._path, self._state, grid, self._codec, block)

        return check

    def _gather(self, name: str, block: int, problems: list[str], nbytes: int, found: Any) -> None:
        self.problems += problems
        self.checked += 1
        self.nbytes += nbytes
        if name == VALID_MASK:
            self._num_valid += found
        elif name == TRAJECTORY_ID:
            if not problems:  # ids that could not be read say nothing
                self._check_ids(block, *found)
        elif name in self._nonfinite:
            self._nonfinite[name] += found

    def _check_ids(self, block: int, first: Any, last: Any, rising: bool) -> None:
        """Ids of an environment never fall, and none is at or above the next one."""
        if (
            not rising
            or (first < self._last_ids).any()
            or (last >= self._state.next_trajectory_id).any()
        ):
            self.problems.append(f"trajectory_id, block {block}: ids fall or were never given out")
        self._last_ids = last

    def _leftovers(self, name: str, grid: FieldGrid) -> None:
        known = {grid.shard_name(b) for b in self._blocks()} | {DOCUMENT}
        others = sorted(set(_listing(os.path.join(self._path, name))) - known)
        if others:
            self.notes.append(
                f"{name}: {len(others)} files past the last commit, {others[0]} first"
            )


def _check_shard(
    path: str, state: StoreState, grid: FieldGrid, codec: Any, block: int
) -> tuple[list[str], int, Any]:
    """Problems, bytes, and what is counted of one shard."""
    steps = min(state.committed_steps - block * grid.block_steps, grid.block_steps)
    gather = _Gather(grid.field.name, state.num_envs)
    problems: list[str] = []
    nbytes = 0
    values = np.empty(grid.chunk_shape, grid.field.dtype)
    try:
        shard = open_shard(path, grid, codec, block)
    except CorruptStoreError as error:
        return [f"{error}{_touched(grid, block, steps, 0, state.num_envs)}"], 0, gather.result()
    with shard:
        for chunk in range(grid.chunks):
            envs = range(
                chunk * grid.chunk_envs, min((chunk + 1) * grid.chunk_envs, state.num_envs)
            )
            nbytes += shard.stored_nbytes(chunk)
            try:
                shard.read(chunk, values)
            except CorruptStoreError as error:
                problems.append(f"{error}{_touched(grid, block, steps, envs.start, envs.stop)}")
                continue
            gather.add(values[: len(envs), :steps], envs)
    return problems, nbytes, gather.result()


class _Gather:
    """Counts what the metadata also counts, chunk by chunk of one shard."""

    def __init__(self, name: str, num_envs: int) -> None:
        self._name, self._count, self._rising = name, 0, True
        self._first = np.zeros(num_envs, np.int64)
        self._last = np.zeros(num_envs, np.int64)

    def add(self, values: NDArray[Any], envs: range) -> None:
        """Count ``(envs, steps[, dim])``."""
        if self._name == VALID_MASK:
            self._count += int(np.count_nonzero(values))
        elif self._name == TRAJECTORY_ID:
            part = slice(envs.start, envs.stop)
            self._first[part], self._last[part] = values[:, 0], values[:, -1]
            self._rising &= bool((np.diff(values, axis=1) >= 0).all())
        elif values.dtype.kind == "f" and not all_finite(values):
            self._count += int(np.count_nonzero(~finite_rows(values)))

    def result(self) -> Any:
        """The count, or the first and last ids per environment and whether none fell."""
        if self._name == TRAJECTORY_ID:
            return self._first, self._last, self._rising
        return self._count


def _touched(grid: FieldGrid, block: int, steps: int, first_env: int, end_env: int) -> str:
    first = block * grid.block_steps
    return f" (steps {first}..{first + steps - 1}, envs {first_env}..{end_env - 1})"


def _listing(folder: str) -> Iterator[str]:
    try:
        yield from os.listdir(folder)
    except OSError:
        return
