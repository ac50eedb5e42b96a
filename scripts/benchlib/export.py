"""``export``: a store in each format, beside what ``dd conv=fdatasync`` writes there."""

from __future__ import annotations

import os
import subprocess
import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchlib.measure import MB, Meter, in_child
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, recorded, removed
from benchlib.table import Figures, in_turns, medians, show_medians
from benchlib.workload import Workload, make_workload

#: What is exported -> ending of the file, format, and options.
_EXPORTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "export, grid": (".npy", "npy", {"layout": "grid"}),
    "export, compact": (".npy", "npy", {"layout": "compact"}),
    "export, hdf5": (".hdf5", "hdf5", {}),
    "export, parquet": (".parquet", "parquet", {}),
    "export, lerobot": ("", "lerobot", {"fps": 50}),
}
_STEPS_AT_ONCE = 64
_DD = "dd conv=fdatasync"
#: What pyarrow takes to encode rows that are in memory, and to write them.
_ALONE = "pyarrow alone"


def export(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    steps = max(1, int(args.export_gb * 1e9) // workload.step_nbytes)
    store, target = (os.path.join(args.folder, n) for n in ("export.zarr", "exported"))

    def run(name: str) -> Figures:
        ending, kind, options = _EXPORTS.get(name, ("", "", {}))
        file = target + ending
        with removed(file):
            if name == _DD:
                return _dd(file, steps * workload.step_nbytes)
            if name == _ALONE:
                return dict(in_child(_write_alone, store, file))
            figures: Figures = in_child(_export, store, file, kind, options)
            if "layout" in options:
                in_child(compare_export, workload, file, steps, options["layout"])
        return figures

    with recorded(workload, Plan.of(args, store, steps)):
        runs = in_turns(args.export_runs, (_DD, *_EXPORTS, _ALONE), run)
    sequential = medians(runs[_DD])["MB/s"]

    def row(name: str, middle: Figures) -> dict[str, Any]:
        return {"what": name, "of dd": f"{middle['MB/s'] / sequential:.2f}", **middle}

    title = f"Export of {steps} steps, medians of {args.export_runs}"
    return show_medians(title, runs, "MB/s", row)


def compare_export(workload: Workload, file: str, steps: int, layout: str) -> None:
    """Load the file as MOSAIC does, and hold every value against what was recorded.

    Raises:
        DifferentDataError: Naming the field and step.
    """
    data = np.load(file, allow_pickle=True).item()
    done = 0
    for start in range(0, steps, _STEPS_AT_ONCE):
        order = np.arange(start, min(start + _STEPS_AT_ONCE, steps)) % workload.pool_steps
        mask = workload.pool["valid_mask"][order]
        count = len(order) if layout == "grid" else int(mask.sum())
        for name, pool in workload.pool.items():
            if name not in data:
                continue
            expected = pool[order] if layout == "grid" else pool[order][mask][:, None]
            if data[name][done : done + count].tobytes() != expected.tobytes():
                raise DifferentDataError(f"export, {name}, step {start}: other values than given")
        done += count
    if len(data["actions"]) != done:
        raise DifferentDataError(f"export: expected {done} rows, got {len(data['actions'])}")


def _export(store: str, file: str, name: str, options: dict[str, Any]) -> Figures:
    from mosaic_collect.export import export

    meter = Meter()
    report = export(store, file, name, **options)
    figures = meter.stop()
    rate = report.num_pairs / figures["wall_s"]
    return {**_figures(figures, report.file_nbytes, report.file_nbytes), "pairs/s": rate}


def _figures(figures: Figures, nbytes: int, file_nbytes: int) -> Figures:
    return {
        "MB/s": nbytes / MB / figures["wall_s"],
        "CPU s per GB": figures["cpu_s"] / nbytes * 1e9,
        "peak RAM MB": figures["peak_mb"],
        "file MB": file_nbytes / MB,
    }


def _write_alone(store: str, file: str) -> Figures:
    import pyarrow as pa

    from mosaic_collect import TrajectoryDataset
    from mosaic_collect.export.parquet import add_rows, column, open_parquet

    dataset = TrajectoryDataset(store)
    fields = [dataset.schema[name] for name in dataset.schema.names]
    rows = {f.name: dataset.read(f.name, 0, 32).reshape(-1, *f.row_shape) for f in fields}
    nbytes = sum(values.nbytes for values in rows.values())
    times = max(1, dataset.num_steps // 32)
    meter = Meter()
    with open_parquet(file, pa.schema([column(pa, f.name, f) for f in fields])) as out:
        for _ in range(times):
            add_rows(out, rows)
    with open(file, "r+b") as written:
        os.fsync(written.fileno())
    return _figures(meter.stop(), times * nbytes, os.path.getsize(file))


def _dd(file: str, nbytes: int) -> Figures:
    blocks = max(1, nbytes // (4 << 20))
    command = ["dd", "if=/dev/zero", f"of={file}", "bs=4M", f"count={blocks}", "conv=fdatasync"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return {"MB/s": blocks * (4 << 20) / MB / seconds, "file MB": blocks * (4 << 20) / MB}
