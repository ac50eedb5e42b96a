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
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.checks import needed
from mosaic_collect.export.plan import ExportFormat, ExportPlan, Options
from mosaic_collect.export.rows import TrajectoryRows, key_of
from mosaic_collect.export.target import Target, write_at
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.selection import TRAIN, VALIDATION, Split
from mosaic_collect.reading.table import Table
from mosaic_collect.reading.trajectories import ENDS
from mosaic_collect.store.schema import Field

_ENV_TYPE = 2  # robomimic's number of gym environments, which Isaac Lab writes as well


class Hdf5(ExportFormat):
    """HDF5 in robomimic's layout."""

    name = "hdf5"

    def check(self, table: Table, fields: Sequence[Field], options: Options) -> None:
        with needed("HDF5 exports need h5py: pip install 'mosaic-collect[hdf5]'"):
            import h5py  # noqa: F401

    def write(self, target: Target, plan: ExportPlan, engine: Engine | None) -> Iterator[int]:
        import h5py

        rows, options = plan.rows, plan.options
        order = np.argsort(rows.trajectories["id"])
        names = np.array([f"demo_{n}" for n in np.argsort(order).tolist()], "S")
        with h5py.File(target.temp_path, "w", locking=False, libver="latest") as file:
            data = file.create_group("data")
            data.attrs["total"] = rows.selection.num_pairs
            task = str(rows.table.state.metadata.get("task", ""))
            data.attrs["env_args"] = json.dumps({"env_name": task, "type": _ENV_TYPE})
            places = _make_demos(h5py, data.id, names.tolist(), rows)
            for kind, side in (("train", TRAIN), ("valid", VALIDATION)):
                split = Split(side, options.validation_fraction, options.split_seed)
                file[f"mask/{kind}"] = names[order][rows.on_side(split)[order]]
            file[OURS] = json.dumps(plan.about)
        starts, widths = rows.starts.tolist(), {f.name: f.row_nbytes for f in rows.fields}

        def put(name: str, row: int, values: NDArray[Any]) -> None:
            stop = row + len(values)
            for at in range(bisect_right(starts, row) - 1, bisect_left(starts, stop)):
                inside = slice(max(starts[at] - row, 0), starts[at + 1] - row)
                before = max(row - starts[at], 0) * widths[name]
                write_at(target.fd, values[inside], places[name][at] + before)

        yield from rows.place(put)


def _make_demos(
    h5py: Any, data: Any, names: Sequence[bytes], rows: TrajectoryRows
) -> dict[str, list[int]]:
    """Make all demos without values; return the byte of the file where each dataset's begin.

    Values are written beside the library. Its low-level calls take a fifth of the others' time.
    """
    scalar = h5py.h5s.create(h5py.h5s.SCALAR)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    empty = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    empty.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    empty.set_fill_time(h5py.h5d.FILL_TIME_NEVER)

    def kind(dtype: Any) -> Any:
        return h5py.h5t.py_create(np.dtype(dtype), logical=True)

    number, text = kind(np.int64), kind(h5py.string_dtype())
    keys = [(f.name, key_of(f.name).encode(), kind(f.dtype), f.row_shape) for f in rows.fields]
    found, places = rows.trajectories, {f.name: list[int]() for f in rows.fields}
    for at, (name, length) in enumerate(zip(names, found["valid"].tolist(), strict=True)):
        demo = h5py.h5g.create(data, name)
        for key, value, of in (
            (b"num_samples", found["valid"][at], number),
            (b"trajectory_id", found["id"][at], number),
            (b"end", np.array(ENDS[found["end"][at]], object), text),
        ):
            h5py.h5a.create(demo, key, of, scalar).write(np.asarray(value))
        for field, key, of, shape in keys:
            space = h5py.h5s.create_simple((length, *shape))
            made = h5py.h5d.create(demo, key, of, space, empty, links)
            places[field].append(made.get_offset())
    return places
