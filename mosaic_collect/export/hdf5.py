"""HDF5 exports in robomimic's layout, which Isaac Lab reads, too: one demo per trajectory.

    data                        attributes total, env_args (JSON)
      demo_0                    attributes num_samples, trajectory_id, end, success (where known)
        actions                 (num_samples, D)
        obs/observations        (num_samples, D)      all fields that are no actions and no states
        states/qpos             (num_samples, D)      states of the simulator, where recorded
        action_mean             (num_samples, D)      other fields of actions, ids and ends
    mask/train, mask/valid      names of the demos on each side of the options' split
    mosaic_collect              JSON: where the file comes from, as in a .npy export

A demo holds the chosen pairs of one trajectory in the order of time, each field as it was recorded.
The pairs are those of a compact .npy export with the same options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from mosaic_collect.checks import needed
from mosaic_collect.export.options import Options
from mosaic_collect.export.rows import RowFormat, TrajectoryRows
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.selection import TRAIN, VALIDATION, Split
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.files import write_all
from mosaic_collect.store.schema import TRAJECTORY_END, TRAJECTORY_ID, Field

_STATES = ("qpos", "qvel", "env_origin")
_BESIDE = (MOTION_ID, TRAJECTORY_END, TRAJECTORY_ID, "motion_frame")
_ENV_TYPE = 2  # robomimic's number of gym environments, which Isaac Lab writes as well


class Hdf5(RowFormat):
    """HDF5 in robomimic's layout."""

    name: ClassVar[str] = "hdf5"
    endings: ClassVar[tuple[str, ...]] = (".hdf5", ".h5")

    def check(self, table: Table, fields: Sequence[Field]) -> None:
        with needed("HDF5 exports need h5py: pip install 'mosaic-collect[hdf5]'"):
            import h5py  # noqa: F401

    def write(
        self, path: str, rows: TrajectoryRows, options: Options, about: dict[str, Any]
    ) -> Iterator[int]:
        import h5py

        found = rows.trajectories
        order = np.argsort(found.id)
        names = [f"demo_{n}" for n in np.argsort(order).tolist()]
        with (
            open(path, "r+b", buffering=0) as out,
            h5py.File(path, "w", locking=False, libver="latest") as file,
        ):
            data = file.create_group("data")
            data.attrs["total"] = rows.selection.num_pairs
            task = str(rows.table.state.metadata.get("task", ""))
            data.attrs["env_args"] = json.dumps({"env_name": task, "type": _ENV_TYPE})
            demos, places = _Demos(h5py, data.id), dict[str, int]()
            for part in rows:
                if not part.first:
                    at = part.trajectory
                    length, id_ = int(found.valid[at]), int(found.id[at])
                    demo = demos.add(names[at], length, id_, ENDS[found.end[at]])
                    places = {f.name: demos.place(demo, f, length) for f in rows.fields}
                for name, pieces in part.fields.items():
                    out.seek(places[name])
                    write_all(out.fileno(), pieces)
                    places[name] = out.tell()
                yield part.nbytes
            for kind, side in (("train", TRAIN), ("valid", VALIDATION)):
                split = Split(side, options.validation_fraction, options.split_seed)
                chosen = rows.on_side(split)[order]
                file[f"mask/{kind}"] = np.array(names, "S")[order][chosen]
            file[OURS] = json.dumps(about)


class _Demos:
    """Makes demos by h5py's low-level calls, which take a fifth of the time of its others.

    Args:
        h5py: The package.
        data: Identifier of the group of the demos.
    """

    def __init__(self, h5py: Any, data: Any) -> None:
        self._h5py, self._data = h5py, data
        self._scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        self._links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)
        # Values are written beside the library, by their place in the file.
        self._empty = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._empty.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        self._empty.set_fill_time(h5py.h5d.FILL_TIME_NEVER)

    def add(self, name: str, length: int, trajectory_id: int, end: str) -> Any:
        """Make a demo without datasets; return its identifier."""
        demo = self._h5py.h5g.create(self._data, name.encode())
        text = self._h5py.string_dtype()
        for key, value, dtype in (
            (b"num_samples", length, np.dtype(np.int64)),
            (b"trajectory_id", trajectory_id, np.dtype(np.int64)),
            (b"end", end, text),
        ):
            kind = self._h5py.h5t.py_create(dtype, logical=True)
            self._h5py.h5a.create(demo, key, kind, self._scalar).write(np.array(value, dtype))
        return demo

    def place(self, demo: Any, field: Field, length: int) -> int:
        """Make a dataset without values; return the byte in the file where they begin."""
        space = self._h5py.h5s.create_simple((length, *field.row_shape))
        kind = self._h5py.h5t.py_create(np.dtype(field.dtype), logical=True)
        key = key_of(field.name).encode()
        made = self._h5py.h5d.create(demo, key, kind, space, self._empty, self._links)
        return int(made.get_offset())


def key_of(name: str) -> str:
    """Place of a field in a demo."""
    if name in _STATES:
        return f"states/{name}"
    return name if name.startswith("action") or name in _BESIDE else f"obs/{name}"
