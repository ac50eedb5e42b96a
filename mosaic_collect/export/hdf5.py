"""HDF5 exports in robomimic's layout, which Isaac Lab reads, too: one demo per trajectory.

    data                        attributes total, env_args (JSON)
      demo_0                    attributes num_samples, trajectory_id
        actions                 (num_samples, D)
        obs/observations        (num_samples, D)      all fields that are no actions and no states
        states/qpos             (num_samples, D)      states of the simulator, where recorded
        action_mean             (num_samples, D)      other fields of actions, ids and ends
    mask/train, mask/valid      names of demos, if a share is held out
    mosaic_collect              JSON: where the file comes from, as in a .npy export

A demo holds the chosen pairs of one trajectory in the order of time, each field as it was recorded.
The pairs are those of a compact .npy export with the same options.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed
from mosaic_collect.errors import (
    ExportError,
    InputError,
    MosaicCollectError,
    SpaceError,
    WriteError,
)
from mosaic_collect.export.npy import (
    ExportReport,
    choose,
    describe_stores,
    join_stores,
    naming_skip_damaged,
    open_stores,
)
from mosaic_collect.export.options import Options
from mosaic_collect.export.stream import Piece, Progress
from mosaic_collect.export.target import Target, check_target
from mosaic_collect.npyfile.layout import COMPACT, GRID, OURS
from mosaic_collect.passes.engine import Threads
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import Selection
from mosaic_collect.reading.table import Table
from mosaic_collect.store.files import NO_ROOM
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, Field
from mosaic_collect.text import reason

ENDINGS = (".hdf5", ".h5")
_STATES = ("qpos", "qvel", "env_origin")
_BESIDE = (MOTION_ID, TRAJECTORY_END, TRAJECTORY_ID, "motion_frame")
_ENV_TYPE = 2  # robomimic's number of gym environments, which Isaac Lab writes as well


def export_hdf5(
    store: Addresses,
    path: str | os.PathLike[str],
    options: Options,
    *,
    valid_share: float = 0.0,
    progress: Progress | None = None,
) -> ExportReport:
    """Write one demo per trajectory, in bounded memory and with an atomic target.

    Args:
        store: The stores, as ``export_npy`` takes them.
        path: The file, ``*.hdf5`` or ``*.h5``; one of that name is replaced.
        options: Pairs and fields to export.
        valid_share: Share of the demos to name in ``mask/valid``, drawn by the options' seed; 0: no
            masks.
        progress: Called with the bytes written since the last call.

    Raises:
        InputError: A bad argument or target, or a layout of a ``.npy`` file.
        MissingDependencyError: h5py is not installed.
        StoreError, ExportError, SpaceError, WriteError: The same errors as ``export_npy``.
    """
    start = time.monotonic()
    if options.layout == GRID:
        raise InputError("layout: HDF5 holds no grid, but one demo per trajectory")
    if not 0 <= valid_share < 1:
        raise InputError(f"valid_share: expected 0 or more, below 1, got {valid_share!r}")
    with needed("HDF5 exports need h5py: pip install 'mosaic-collect[hdf5]'"):
        import h5py
    check_target(path, (), ENDINGS)
    options = Options(**{**options.as_json(), "layout": COMPACT})
    views, folders = open_stores(store, options)
    name = check_target(path, folders, ENDINGS)
    with naming_skip_damaged(options):
        table, fields = join_stores(views, options)
        # Where an id is damaged, nobody knows whose the pair is.
        ids = [table.grids[TRAJECTORY_ID].field]
        _, selection, left = choose(table, fields + [f for f in ids if f not in fields], options)
        demos = _Demos(h5py, _lengths(table, selection))
        nbytes = selection.num_pairs * sum(f.row_nbytes for f in fields)
        ours = {"options": options.as_json(), "left_out": asdict(left), **describe_stores(table)}
        try:
            with Target(name, nbytes) as target, demos.opened(target.temp_path) as file:
                for count in demos.write(table, selection, fields):
                    if progress is not None:
                        progress(count)
                task = str(table.state.metadata.get("task", ""))
                file["data"].attrs["env_args"] = json.dumps({"env_name": task, "type": _ENV_TYPE})
                demos.write_masks(valid_share, options.seed)
                file[OURS] = json.dumps(ours)
        except MosaicCollectError:
            raise
        except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
            words = f"{name}: writing failed, nothing was left there: {reason(error)}"
            is_full = getattr(error, "errno", None) in NO_ROOM
            raise (SpaceError if is_full else WriteError)(words) from error
    return ExportReport(
        path=name,
        layout="hdf5",
        num_pairs=selection.num_pairs,
        shapes={f.name: (selection.num_pairs, *f.row_shape) for f in fields},
        left_out=left,
        file_nbytes=os.path.getsize(name),
        device_nbytes=nbytes,
        seconds=time.monotonic() - start,
        notes=(f"{len(demos.lengths)} demos, one per trajectory",),
    )


def _lengths(table: Table, selection: Selection) -> dict[int, int]:
    """Chosen pairs of each trajectory that has any, by ascending ids."""
    found = Counter[int]()
    for block in range(table.state.num_blocks):
        ids = _ids(table, selection, block)[selection.block(block)]
        found.update(
            dict(zip(*(a.tolist() for a in np.unique(ids, return_counts=True)), strict=True))
        )
    return dict(sorted(found.items()))


def _ids(table: Table, selection: Selection, block: int) -> NDArray[np.int64]:
    """Trajectory ids of a block; 0 in cells without a chosen pair, which may be damaged."""
    ids = np.zeros(table.shape(block), np.int64)
    for cell in selection.cells_of(block, TRAJECTORY_ID):
        if selection.mask(cell).any():
            ids[cell.at] = table.read_cell(TRAJECTORY_ID, cell)
    return ids


def _rows(table: Table, selection: Selection, piece: Piece) -> NDArray[Any] | None:
    """Chosen rows of a cell by environment, then step; None if there are none."""
    name, cell = piece
    mask = selection.mask(cell).T
    return table.read_cell(name, cell).swapaxes(0, 1)[mask] if mask.any() else None


class _Demos:
    """Demos of a file, filled block by block.

    Args:
        h5py: The package.
        lengths: Rows of each demo, by the ids of their trajectories.
    """

    def __init__(self, h5py: Any, lengths: dict[int, int]) -> None:
        self._h5py, self.lengths = h5py, lengths
        self._file: Any = None
        self._number = {id_: number for number, id_ in enumerate(lengths)}
        # Datasets of trajectories that continue in the next block: a handle, and the rows written.
        self._open: dict[tuple[int, str], tuple[Any, int]] = {}

    @contextmanager
    def opened(self, path: str) -> Iterator[Any]:
        """Open the file, with empty demos; what was there is lost."""
        with self._h5py.File(path, "w", locking=False, libver="latest") as self._file:
            data = self._file.create_group("data")
            data.attrs["total"] = sum(self.lengths.values())
            for id_, number in self._number.items():
                demo = data.create_group(f"demo_{number}")
                demo.attrs["num_samples"], demo.attrs["trajectory_id"] = self.lengths[id_], id_
            yield self._file

    def write(self, table: Table, selection: Selection, fields: list[Field]) -> Iterator[int]:
        """Write all chosen rows; yield the bytes of each cell."""
        pieces, done = tee(
            (f.name, cell)
            for block in range(table.state.num_blocks)
            for f in fields
            for cell in selection.cells_of(block, f.name)
        )
        at, ids = -1, np.empty((0, 0), np.int64)
        found = Threads().map(partial(_rows, table, selection), pieces)
        for (name, cell), rows in zip(done, found, strict=True):
            if rows is not None:
                if cell.block != at:
                    at, ids = cell.block, _ids(table, selection, cell.block)
                self._put(name, ids[cell.at].T[selection.mask(cell).T], rows)
                yield rows.nbytes

    def _put(self, name: str, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Write rows that lie by environment, then step: each trajectory's lie together."""
        starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            id_ = int(ids[start])
            if (id_, name) not in self._open:
                self._open[id_, name] = self._new(id_, name, rows), 0
            stored, first = self._open.pop((id_, name))
            space = stored.get_space()
            space.select_hyperslab((first, *[0] * (rows.ndim - 1)), rows[start:stop].shape)
            stored.write(
                self._h5py.h5s.create_simple(rows[start:stop].shape), space, rows[start:stop]
            )
            if first + stop - start < self.lengths[id_]:
                self._open[id_, name] = stored, first + stop - start

    def _new(self, id_: int, name: str, rows: NDArray[Any]) -> Any:
        """Make a dataset of a demo; its handle writes many times faster than ``h5py.Dataset``."""
        shape = (self.lengths[id_], *rows.shape[1:])
        demo = self._file[f"data/demo_{self._number[id_]}"]
        return demo.create_dataset(_key(name), shape, rows.dtype).id

    def write_masks(self, valid_share: float, seed: int) -> None:
        """Name the demos for training and those held out, drawn by the seed."""
        if not valid_share:
            return
        names = np.array([f"demo_{number}" for number in self._number.values()], "S")
        count = round(valid_share * len(names))
        if not 0 < count < len(names):
            raise ExportError(
                f"valid_share: {valid_share} of {len(names)} demos leaves none of a kind"
            )
        order = np.random.default_rng(seed).permutation(len(names))
        for kind, which in (("valid", order[:count]), ("train", order[count:])):
            self._file[f"mask/{kind}"] = names[np.sort(which)]


def _key(name: str) -> str:
    """Place of a field in a demo."""
    if name in _STATES:
        return f"states/{name}"
    return name if name.startswith("action") or name in _BESIDE else f"obs/{name}"
