"""Reading a store: its committed prefix, lazily. Needs neither torch nor zarr."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import thread_count
from mosaic_collect.errors import InputError, StoreNotFoundError
from mosaic_collect.reading.card import card, unborn_card
from mosaic_collect.reading.labelled import missing_package, open_labelled
from mosaic_collect.reading.lazy import LazyArray
from mosaic_collect.reading.table import Trajectories
from mosaic_collect.reading.terms import Term, find_term, told_terms
from mosaic_collect.reading.tracing import trace
from mosaic_collect.reading.trajectory import Trajectory
from mosaic_collect.store.address import Address, blobs_at
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COLLECTING, StoreState
from mosaic_collect.store.schema import Schema
from mosaic_collect.store.view import StoreView

_LARGE_NBYTES = 16 << 20


class TrajectoryDataset(Mapping[str, LazyArray]):
    """A snapshot of a store: what was committed when it was opened, or at the last ``refresh``.

    A mapping from the names of its fields to lazy arrays. Opening reads one small document, however
    many steps there are, and never disturbs a writer. Pickles with its snapshot.

    Args:
        path: The store.
        threads: That decode; default: the processors, at most 4.

    Raises:
        InputError: ``threads`` is no whole number of at least 1.
        StoreNotFoundError: No store there.
        CorruptStoreError: Its metadata is damaged or contradicts itself.
        NewerFormatError: A newer mosaic_collect wrote it.
    """

    def __init__(self, path: Address, threads: int | None = None) -> None:
        self._blobs = blobs_at(path)
        self._threads = thread_count(threads)
        self._pool: ThreadPoolExecutor | None = None
        self._pool_owner = 0
        self.refresh()

    def refresh(self) -> None:
        """See what was committed meanwhile."""
        self._view = StoreView.of(self._blobs)
        self._trajectories: Trajectories | None = None

    def __repr__(self) -> str:
        return f"<TrajectoryDataset {self.path}: {self.num_steps} steps x {self.num_envs} envs>"

    def _repr_html_(self) -> str:
        return unborn_card(self.path) if self._view is None else card(self._view)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None, "_trajectories": None}

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self._blobs.address

    @property
    def blobs(self) -> Blobs:
        """What the store lies on."""
        return self._blobs

    @property
    def view(self) -> StoreView:
        """The snapshot itself.

        Raises:
            StoreNotFoundError: The store was killed before it said anything.
        """
        if self._view is None:
            raise StoreNotFoundError(f"{self.path} was killed before its first commit: no fields")
        return self._view

    @property
    def state(self) -> StoreState:
        """All that the root document says.

        Raises:
            StoreNotFoundError: The store was killed before it said anything.
        """
        return self.view.state

    @property
    def num_steps(self) -> int:
        """Committed steps, T."""
        return self._view.state.committed_steps if self._view else 0

    @property
    def num_envs(self) -> int:
        """Environments, N; 0 for a store killed before it said so."""
        return self._view.state.num_envs if self._view else 0

    @property
    def num_valid(self) -> int:
        """Pairs with a true mask."""
        return self._view.state.num_valid if self._view else 0

    @property
    def num_trajectories(self) -> int:
        """Trajectories that were ended."""
        return self._view.state.num_trajectories if self._view else 0

    @property
    def status(self) -> str:
        """``collecting`` or ``complete``."""
        return self._view.state.status if self._view else COLLECTING

    @property
    def schema(self) -> Schema:
        """The caller's fields, without the mask and the trajectory ids."""
        return self.state.schema

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's own metadata; a copy."""
        return dict(self._view.state.metadata) if self._view else {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all stored fields."""
        return tuple(self._view.grids) if self._view else ()

    def read(
        self, field: str, start: int = 0, stop: int | None = None, envs: slice | None = None
    ) -> NDArray[Any]:
        """Rows of some steps, decoding only the blocks and chunks touched.

        Args:
            field: Its name.
            start: First step.
            stop: Behind the last step; None: all.
            envs: A slice of environments with a positive step; None: all.

        Returns:
            Shape ``(stop - start, N[, D])``, the caller's own.

        Raises:
            InputError: No such field, or a range that is not committed.
            CorruptStoreError: A damaged shard.
        """
        stop = self.num_steps if stop is None else stop
        if not all(isinstance(s, (int, np.integer)) for s in (start, stop)):
            raise InputError(f"steps {start!r}..{stop!r}: expected whole numbers")
        if envs is not None and not isinstance(envs, slice):
            raise InputError(f"envs: expected a slice or None, got {envs!r}")
        if not 0 <= start <= stop <= self.num_steps:
            raise InputError(f"steps {start}..{stop}: expected within 0..{self.num_steps}")
        chosen = range(self.num_envs)[slice(None) if envs is None else envs]
        if chosen.step < 1:
            raise InputError(f"envs: expected a slice with a positive step, got {envs}")
        return self._read(self.schema[field].name, range(start, stop), chosen)

    @property
    def trajectories(self) -> Trajectories:
        """The trajectories as a table; when first asked for, ids, mask and ends are read once.

        Raises:
            CorruptStoreError: A damaged chunk of those.
        """
        if self._trajectories is None:
            traced = trace(self.view, self._executor())
            self._trajectories = Trajectories(traced, self.schema, self._read, self.metadata)
        return self._trajectories

    def trajectory(self, number: int) -> Trajectory:
        """One trajectory by its id; its fields are read when they are asked for.

        Raises:
            InputError: There is none of that id.
            CorruptStoreError: As ``trajectories``'.
        """
        return self.trajectories.by_id(number)

    def where(self, **conditions: Any) -> Trajectories:
        """The trajectories of some lengths, ends and motions; see ``Trajectories.where``."""
        return self.trajectories.where(**conditions)

    def get(self, field: str, default: Any = None) -> Any:
        """The field's lazy array, or ``default`` if there is no such field."""
        return self[field] if field in self else default  # noqa: SIM401  this is it

    def __getitem__(self, field: str) -> LazyArray:
        """A field as a lazy array ``(T, N[, D])``.

        Raises:
            InputError: No such field.
        """
        found = self.schema[field]
        shape = (self.num_steps, self.num_envs, *found.row_shape)
        return LazyArray(shape, found.dtype, partial(self._read, field))

    @property
    def terms(self) -> dict[str, tuple[Term, ...]]:
        """The observation terms of those fields of which the store tells them, by columns.

        Raises:
            InputError: What its metadata tells of them contradicts the fields.
        """
        return told_terms(self.schema, self.metadata)

    def term(self, field: str, name: str, history: bool = False) -> LazyArray:
        """One observation term of a field as a lazy array.

        Args:
            field: The field's name.
            name: The term's.
            history: All its frames, oldest first, ``(T, N, frames, dim)``, and not only its newest
                one, ``(T, N, dim)``.

        Raises:
            InputError: The store knows no such term.
        """
        found, dtype = find_term(self.terms, field, name), self.schema[field].dtype
        row = (found.frames, found.dim) if history else (found.dim,)
        columns = found.columns if history else found.newest

        def read(steps: range, envs: range) -> NDArray[Any]:
            rows = self._read(field, steps, envs)[..., columns]
            return np.ascontiguousarray(rows).reshape(len(steps), len(envs), *row)

        return LazyArray((self.num_steps, self.num_envs, *row), dtype, read)

    def to_zarr(self) -> Any:
        """The store as a read-only ``zarr.Group`` of zarr-python 3.

        Raises:
            MissingDependencyError: It is not installed.
        """
        try:
            import zarr
        except ImportError as error:
            raise missing_package("zarr") from error
        return zarr.open_group(
            self._blobs.for_zarr(), mode="r", zarr_format=3, use_consolidated=True
        )

    def to_xarray(self, chunks: Any = None) -> Any:
        """The store as an ``xarray.Dataset`` of lazy arrays, with coordinates ``step`` and ``env``.

        Where the store knows its observation terms, ``sel(observations_term="joint_pos")`` takes a
        term's columns; the coordinate ``observations_frame`` is 0 at its newest frame.

        Args:
            chunks: Of dask arrays, as ``xarray.open_dataset`` takes them: ``{}`` for one a shard,
                ``"auto"``, or sizes by ``step`` and ``env``; None: xarray's own lazy arrays.

        What others added to the group is there, too, unless the store has grown past it.

        Raises:
            MissingDependencyError: xarray, or dask for chunks, is not installed.
        """
        return open_labelled(self.view, self.terms, chunks)

    def _read(self, field: str, steps: range, envs: range) -> NDArray[Any]:
        row_nbytes = self.schema[field].row_nbytes
        if len(steps) and len(steps) * len(envs) * row_nbytes > _LARGE_NBYTES:
            # Metadata may promise what no file holds: look before room is made for it.
            self.view.shard(field, steps[-1] // self.state.block_steps).close()
        return self.view.read(field, steps, envs, self._executor())

    def _executor(self) -> ThreadPoolExecutor | None:
        # A forked child, a data loader's worker for one, has the pool but none of its threads.
        if self._threads > 1 and (self._pool is None or self._pool_owner != os.getpid()):
            self._pool = ThreadPoolExecutor(self._threads, "mosaic-decode")
            self._pool_owner = os.getpid()
        return self._pool
