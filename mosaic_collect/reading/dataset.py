"""Read one or several stores lazily. Needs neither torch nor zarr."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import analysis_by, thread_count
from mosaic_collect.errors import FieldNotFoundError, InputError, StoreNotFoundError
from mosaic_collect.reading.lazy import LazyArray
from mosaic_collect.reading.numbering import IDS
from mosaic_collect.reading.store_set import OpenedStore, StoreSet
from mosaic_collect.reading.summary import card
from mosaic_collect.reading.table import Part, Table
from mosaic_collect.reading.terms import Term, find_term, parse_terms
from mosaic_collect.reading.trajectories import Trajectories, Trajectory, trace
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.metadata import COLLECTING, StoreState
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.robot import Robot
from mosaic_collect.store.schema import (
    GOES_ON,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    VALID_MASK,
    Schema,
)
from mosaic_collect.store.view import StoreView
from mosaic_collect.store.workers import WorkerPool

_LARGE_NBYTES = 16 << 20


class TrajectoryDataset(Mapping[str, LazyArray]):
    """A snapshot of the committed steps of a store, taken when it is opened or refreshed.

    The dataset is a mapping from field names to lazy arrays. Opening reads one small document,
    whatever the number of steps, and never disturbs a writer. A dataset pickles with its snapshot.

    Several stores are read as one. Their steps follow each other, and trajectory ids and motion ids
    are renumbered so that each has one meaning. While the stores are being recorded, a later
    snapshot may number the later stores differently. If the stores differ in N, ``num_envs`` is the
    greatest; read arrays over all environments from ``parts``.

    Args:
        path: The store; or a multi-rank dataset, a pattern such as ``runs/*.zarr``, or several.
        threads: Number of decoding threads; default: one per processor, at most 4.

    Raises:
        InputError: ``threads`` is no whole number of at least 1.
        StoreNotFoundError: No store there.
        StoreMismatchError: Fields or origins of several stores differ, or a store in a folder of
            ranks belongs to no rank.
        CorruptStoreError: Its metadata is damaged or contradicts itself.
        NewerFormatError: A newer mosaic_collect wrote it.
    """

    def __init__(self, path: Addresses, threads: int | None = None) -> None:
        self._threads = thread_count(threads)
        self._pool: WorkerPool | None = None
        self._pool_owner = 0
        self._place = Place.of(path)
        self.refresh()

    def refresh(self) -> None:
        """Read the stores again: new steps, and new stores of a folder or a pattern."""
        self._set(StoreSet.open(self._place))

    def _set(self, stores: StoreSet) -> None:
        self.stores, self._table = stores, stores.table()
        self._trajectories: Trajectories | None = None

    @property
    def path(self) -> str:
        """Address of the store, or of all stores."""
        return self._place.address

    @property
    def parts(self) -> tuple[TrajectoryDataset, ...]:
        """The stores one by one, each with this snapshot; a single store is its own part."""
        return tuple(map(self._part, self.stores.stores)) if self.stores.are_several else (self,)

    @property
    def missing(self) -> tuple[str, ...]:
        """Addresses of the stores of ranks that joined a multi-rank dataset and are not there."""
        return self.stores.missing

    @property
    def never_joined(self) -> tuple[str, ...]:
        """Addresses of the stores of ranks that the other ranks expect and that never joined."""
        return self.stores.never_joined

    @property
    def blobs(self) -> Blobs:
        """Files of the store.

        Raises:
            InputError: The dataset has several stores.
        """
        if self.stores.are_several:
            raise InputError(f"{self.path}: expected one store; these are several")
        return self.stores.stores[0].blobs

    @property
    def view(self) -> Table:
        """The snapshot as a table of cells.

        Raises:
            StoreNotFoundError: The store was killed before its first commit.
        """
        if self._table is None:
            raise StoreNotFoundError(f"{self.path} was killed before its first commit: no fields")
        return self._table

    @property
    def state(self) -> StoreState:
        """Contents of the root document.

        Raises:
            StoreNotFoundError: The store was killed before its first commit.
        """
        return self.view.state

    @property
    def num_steps(self) -> int:
        """Committed steps, T."""
        return self._table.state.committed_steps if self._table else 0

    @property
    def num_envs(self) -> int:
        """Environments, N; the greatest of several stores; 0 before the first commit."""
        return self._table.state.num_envs if self._table else 0

    @property
    def num_valid(self) -> int:
        """Pairs with a true mask."""
        return self._table.state.num_valid if self._table else 0

    @property
    def num_ended(self) -> int:
        """Number of trajectories that ended; ``len(dataset.trajectories)`` counts all."""
        return self._table.state.num_trajectories if self._table else 0

    @property
    def status(self) -> str:
        """``collecting`` or ``complete``."""
        return self._table.state.status if self._table else COLLECTING

    @property
    def schema(self) -> Schema:
        """The caller's fields, without the mask and the trajectory ids."""
        return self.state.schema

    @property
    def metadata(self) -> dict[str, Any]:
        """Copy of the user's metadata."""
        return dict(self._table.state.metadata) if self._table else {}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all stored fields."""
        return tuple(self._table.grids) if self._table else ()

    def __repr__(self) -> str:
        size = f"{self.num_steps} steps x {self.num_envs} envs"
        return f"<TrajectoryDataset {self.path}: {size}; {', '.join(self.fields) or 'no fields'}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.fields)

    def _repr_html_(self) -> str:
        return card(self)

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

    def read(
        self, field: str, start: int = 0, stop: int | None = None, envs: slice | None = None
    ) -> NDArray[Any]:
        """Read rows of some steps; decodes only the chunks that they touch.

        Args:
            field: Name of the field.
            start: First step.
            stop: End of the steps, exclusive; None: the last committed step.
            envs: Slice of environments with a positive step; None: all.

        Returns:
            A new array. Shape: ``(stop - start, N[, D])``.

        Raises:
            InputError: The field does not exist, or the range is not committed.
            CorruptStoreError: A shard is damaged.
        """
        self._require_one_width()
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
        """Table of all trajectories; the first access reads ids, mask and ends once.

        Raises:
            CorruptStoreError: A chunk of ids, mask or ends is damaged.
        """
        if self._trajectories is None:
            traced = trace(self.view, self._executor())
            self._trajectories = Trajectories(traced, self.schema, self._read, self.metadata)
        return self._trajectories

    def trajectory(self, number: int) -> Trajectory:
        """One trajectory by its id; fields are read when they are indexed.

        Raises:
            InputError: No trajectory has this id.
            CorruptStoreError: A chunk of ids, mask or ends is damaged.
        """
        return self.trajectories.by_id(number)

    def where(self, **conditions: Any) -> Trajectories:
        """Filter trajectories by length, end and motion; see ``Trajectories.where``."""
        return self.trajectories.where(**conditions)

    def get(self, field: str, default: Any = None) -> Any:
        """The field's lazy array, or ``default`` if there is no such field."""
        return self[field] if field in self else default  # noqa: SIM401  this is it

    def __getitem__(self, field: str) -> LazyArray:
        """A field as a lazy array ``(T, N[, D])``.

        Raises:
            FieldNotFoundError: No such field.
        """
        if not isinstance(field, str):
            raise FieldNotFoundError(
                f"no field {field!r}: a dataset maps names to arrays, such as "
                f"dataset[{next(iter(self), 'actions')!r}][0]; BatchLoader draws pairs"
            )
        found = self.schema[field]
        self._require_one_width()
        shape = (self.num_steps, self.num_envs, *found.row_shape)
        return LazyArray(shape, found.dtype, partial(self._read, field))

    @property
    def terms(self) -> dict[str, tuple[Term, ...]]:
        """Observation terms per field, as far as the metadata name them.

        Raises:
            InputError: The metadata contradict the fields.
        """
        return parse_terms(self.schema, self.metadata)

    @property
    def robot(self) -> Robot | None:
        """Description of the recorded robot, if the metadata contain one.

        Raises:
            InputError: The metadata entry is not a robot.
        """
        return Robot.from_metadata(self.metadata)

    def term(self, field: str, name: str, history: bool = False) -> LazyArray:
        """One observation term of a field as a lazy array.

        Args:
            field: Name of the field.
            name: Name of the term.
            history: Return all frames, oldest first, ``(T, N, frames, dim)``, instead of the newest
                frame, ``(T, N, dim)``.

        Raises:
            InputError: The metadata name no such term.
        """
        dtype, found = self.schema[field].dtype, find_term(self.terms, field, name)
        self._require_one_width()
        row = (found.frames, found.dim) if history else (found.dim,)
        columns = found.columns if history else found.newest

        def read(steps: range, envs: range) -> NDArray[Any]:
            rows = self._read(field, steps, envs)[..., columns]
            return np.ascontiguousarray(rows).reshape(len(steps), len(envs), *row)

        return LazyArray((self.num_steps, self.num_envs, *row), dtype, read)

    def transitions(
        self, fields: Sequence[str] | None = None, observations: Sequence[str] | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Iterate over all valid pairs with the observations that follow them, in bounded memory.

        The next observation of a pair is the one of the next step, if that is a valid pair of the
        same trajectory. Where a trajectory ended it is ``final_<name>`` of the same row, if the
        store has such fields: the observation before the reset. Elsewhere it is absent.

        Args:
            fields: Fields of the pairs; default: all, but for ``final_<name>``.
            observations: Fields whose next value to add; default: all whose name contains
                ``observations``, but for ``final_<name>``.

        Yields:
            Some pairs at a time, a dict of arrays ``(M[, D])``: the fields, ``next_<name>`` per
            field of ``observations``, and ``has_next``, bool ``(M,)``. Where it is false,
            ``next_<name>`` holds zeros. Each valid pair comes once.

        Raises:
            InputError: No such field.
            CorruptStoreError: A chunk is damaged.
        """
        own = [n for n in self.schema.stored_names if not n.startswith("final_")]
        given = own if fields is None else [self.schema[n].name for n in fields]
        found = [n for n in own if "observations" in n]
        following = found if observations is None else [self.schema[n].name for n in observations]
        return self._transitions(given, following)

    def _transitions(
        self, fields: Sequence[str], following: Sequence[str]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        table, stored = self.view, self.schema.stored_names
        finals = {n: f"final_{n}" for n in following}
        has_finals = TRAJECTORY_END in stored and all(f in stored for f in finals.values())
        ends = [TRAJECTORY_END, *finals.values()] if has_finals else []
        names = list(dict.fromkeys([*fields, *following, VALID_MASK, TRAJECTORY_ID, *ends]))

        def pairs(rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            """All pairs but those of the last row, each with its next row."""
            ids, mask = rows[TRAJECTORY_ID], rows[VALID_MASK]
            chosen, follows = mask[:-1], mask[1:] & (ids[1:] == ids[:-1])
            ended = chosen & ~follows & (rows[TRAJECTORY_END][:-1] != GOES_ON if ends else False)
            out = {name: rows[name][:-1][chosen] for name in fields}
            for name, final in finals.items():
                after = np.zeros_like(rows[name][:-1])
                after[follows] = rows[name][1:][follows]
                if ends:
                    after[ended] = rows[final][:-1][ended]
                out[f"next_{name}"] = after[chosen]
            return {**out, "has_next": (follows | ended)[chosen]}

        for part in table.parts:
            last: dict[range, dict[str, NDArray[Any]]] = {}
            first = part.numbering.first_block
            for block in range(first, first + part.state.num_blocks):
                for cell in table.cells_of(block, names):
                    rows = {name: table.read_cell(name, cell) for name in names}
                    if cell.envs in last:
                        before = last[cell.envs]
                        rows = {n: np.concatenate([before[n], rows[n]]) for n in names}
                    last[cell.envs] = {name: values[-1:].copy() for name, values in rows.items()}
                    yield pairs(rows)
            for rows in last.values():
                after = {**rows, TRAJECTORY_ID: np.full_like(rows[TRAJECTORY_ID], -1)}
                yield pairs({n: np.concatenate([rows[n], after[n]]) for n in names})

    def to_zarr(self) -> Any:
        """The store, or the multi-rank dataset, as a read-only ``zarr.Group`` of zarr-python 3.

        Raises:
            InputError: Several stores are no single group.
            MissingDependencyError: zarr-python is not installed.
        """
        with analysis_by("zarr"):
            import zarr
        blobs = self._place.items[0]
        if not self._place.is_one or isinstance(blobs, str):
            raise InputError(f"{self.path}: expected one group; take those of the parts")
        alone = not self.stores.are_several
        return zarr.open_group(blobs.for_zarr(), mode="r", zarr_format=3, use_consolidated=alone)

    def to_xarray(self, chunks: Any = None) -> Any:
        """The store as an ``xarray.Dataset`` of lazy arrays, with coordinates ``step`` and ``env``.

        If the metadata name observation terms, ``sel(observations_term="joint_pos")`` selects the
        columns of a term. The coordinate ``observations_frame`` is 0 at the newest frame.

        Args:
            chunks: Chunks of dask arrays, as for ``xarray.open_dataset``: ``{}`` for one per shard,
                ``"auto"``, or sizes by ``step`` and ``env``; None: xarray's own lazy arrays.

        Third-party arrays of the group are included, unless the store has grown past them. Several
        stores are joined along their steps, with ids as here, as dask arrays; third-party arrays
        without a ``step`` axis differ per store and are only in ``to_datatree``.

        Raises:
            InputError: The stores differ in N: use ``to_datatree``.
            MissingDependencyError: xarray, or dask for chunks, is not installed.
        """
        table = self.view
        if not self.stores.are_several:
            return _open_labelled(table.parts[0], self.terms, chunks)
        self._require_one_width()
        lazy = {} if chunks is None else chunks
        parts = [_open_labelled(v, self.terms, lazy, among_others=True) for v in table.parts]
        return _join_labelled(parts, table)

    def to_datatree(self, chunks: Any = None) -> Any:
        """The stores as an ``xarray.DataTree``, one node per store, with ids as stored.

        Args:
            chunks: Chunks of dask arrays, as for ``to_xarray``.

        Raises:
            MissingDependencyError: xarray, or dask for chunks, is not installed.
        """
        with analysis_by("xarray"):
            import xarray
        born = [part for part in self.parts if part.num_envs]
        names = [os.path.basename(os.path.normpath(part.path)) for part in born]
        if len(set(names)) < len(names):
            names = [f"{number}-{name}" for number, name in enumerate(names)]
        nodes = {name: part.to_xarray(chunks) for name, part in zip(names, born, strict=True)}
        return xarray.DataTree.from_dict(nodes)

    def _part(self, store: OpenedStore) -> TrajectoryDataset:
        part = copy.copy(self)
        part._place = Place.of(store.blobs)
        part._set(StoreSet(store.blobs.address, (store,)))
        return part

    def _read(self, field: str, steps: range, envs: range) -> NDArray[Any]:
        row_nbytes = self.schema[field].row_nbytes
        if len(steps) and len(steps) * len(envs) * row_nbytes > _LARGE_NBYTES:
            # Metadata may claim steps that no file holds: look before memory is allocated.
            at, block = self.view.place(self.state.block_of(steps[-1]))
            self.view.parts[at].shard(field, block).close()
        return self.view.read(field, steps, envs, self._executor())

    def _require_one_width(self) -> None:
        if self._table is not None and not self._table.has_one_width:
            widths = ", ".join(f"{part.path} has {part.num_envs}" for part in self.parts)
            raise InputError(
                f"an array over steps and environments needs one number of environments: {widths}; "
                "read the parts, or trajectories"
            )

    def _executor(self) -> WorkerPool | None:
        # A forked child, a data loader's worker for one, has the pool but none of its threads.
        if self._threads > 1 and (self._pool is None or self._pool_owner != os.getpid()):
            self._pool = WorkerPool(self._threads, "mosaic-decode")
            self._pool_owner = os.getpid()
        return self._pool


def _open_labelled(
    view: StoreView, terms: Mapping[str, tuple[Term, ...]], chunks: Any, among_others: bool = False
) -> Any:
    """A store's arrays, lazily, with ``step``, ``env`` and the terms' names as coordinates.

    Among others, third-party arrays without a step axis are left out: they cannot be joined.
    """
    with analysis_by("xarray"):
        import xarray
    with analysis_by("dask"):
        data = xarray.open_dataset(
            view.blobs.for_zarr(),
            engine="zarr",
            consolidated=True,
            zarr_format=3,
            chunks=chunks,
            drop_variables=_unfit(view.state, among_others),
        )
    # The root document as text, as files such as netCDF take no nested attributes.
    data.attrs = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in data.attrs.items()}
    # A writer may have gone on since this snapshot.
    return _labelled(data.isel(step=slice(view.state.committed_steps)), view.state, terms)


def _join_labelled(datasets: Sequence[Any], view: Table) -> Any:
    """Datasets of stores, of dask arrays, as one along their steps, numbered as the view does."""
    import xarray

    numbered = [
        data.assign({name: _renumbered(data[name], part) for name in IDS if name in data})
        for data, part in zip(datasets, view.parts, strict=True)
    ]
    names = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    joined = xarray.concat(numbered, "step", combine_attrs="drop_conflicts", **names)
    return joined.assign_coords(step=np.arange(view.state.committed_steps))


def _renumbered(array: Any, part: Part) -> Any:
    return array.copy(data=array.data.map_blocks(partial(part.numbering.apply, array.name)))


def _unfit(state: StoreState, among_others: bool) -> list[str]:
    """Third-party arrays that are shorter than the store has become, or that cannot be joined."""
    missing = None if among_others else state.committed_steps
    found = []
    for name, array in state.foreign_arrays.items():
        axes = dict(zip(array.get("dimension_names") or (), array.get("shape", ()), strict=False))
        if axes.get("step", missing) != state.committed_steps:
            found.append(name)
    return found


def _labelled(data: Any, state: StoreState, terms: Mapping[str, tuple[Term, ...]]) -> Any:
    """The dataset with its coordinates.

    A field ``f`` with terms gets the coordinates ``f_term``, of which ``sel`` picks columns by
    names, and ``f_frame``: 0 for the newest frame of a term, -1 for the one before, and so on.
    """
    steps, envs = np.arange(state.committed_steps), np.arange(state.num_envs)
    numbers = {"step": ("step", steps), "env": ("env", envs)}
    # A field may have such a name, too.
    data = data.assign_coords({k: v for k, v in numbers.items() if k not in data.variables})
    for field, found in terms.items():
        if field not in data:
            continue
        along = data[field].dims[-1]
        names = np.repeat([t.name for t in found], [t.dim * t.frames for t in found])
        frames = np.concatenate([np.repeat(np.arange(1 - t.frames, 1), t.dim) for t in found])
        data = data.assign_coords({f"{field}_term": (along, names)})
        data = data.assign_coords({f"{field}_frame": (along, frames)})
        data = data.set_xindex(f"{field}_term")
    return data
