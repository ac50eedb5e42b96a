"""``export``: a store in each format, beside what ``dd conv=fdatasync`` writes there."""

from __future__ import annotations

import os
import subprocess
import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchlib.measure import MB, Meter, in_child, medians, spread
from benchlib.peers import Plan
from benchlib.recording import DifferentDataError, record_all, remove
from benchlib.table import show
from benchlib.turns import with_medians
from benchlib.workload import Workload, make_workload

_LAYOUTS = ("grid", "compact")
#: Format -> ending of its file, and options.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "hdf5": (".hdf5", {}),
    "parquet": (".parquet", {}),
    "lerobot": ("", {"fps": 50}),
}
_STEPS_AT_ONCE = 64
#: What pyarrow takes to encode rows that are in memory, and to write them.
_ALONE = "pyarrow alone"


def export(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    workload = make_workload(args.num_envs, args.dims, args.noise)
    steps = max(1, int(args.export_gb * 1e9) // workload.step_nbytes)
    store, file = (os.path.join(args.folder, n) for n in ("export.zarr", "export.npy"))
    plan = Plan.of(args, store, steps)
    names = ("dd", *_LAYOUTS, *_FORMATS, _ALONE)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    remove(store)
    try:
        in_child(record_all, workload, plan)
        for number in range(args.export_runs):
            runs["dd"].append(_dd(file, steps * workload.step_nbytes))
            for layout in _LAYOUTS:
                os.sync()
                runs[layout].append(in_child(_export, store, file, layout))
                if number == 0:
                    in_child(compare_export, workload, file, steps, layout)
                remove(file)
            for name, (ending, options) in _FORMATS.items():
                os.sync()
                target = os.path.join(args.folder, f"exported{ending}")
                try:
                    runs[name].append(in_child(_export_format, store, target, name, options))
                finally:
                    remove(target)
            runs[_ALONE].append(in_child(_write_alone, store, f"{file}.parquet"))
    finally:
        for path in (store, file, f"{file}.parquet"):
            remove(path)
    sequential = medians(runs["dd"])["mb_s"]
    rows = [_row(name, figures, sequential) for name, figures in runs.items()]
    show(f"Export of {steps} steps, medians of {args.export_runs}", rows)
    return with_medians(runs)


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


def _export(store: str, file: str, layout: str) -> dict[str, float]:
    return _export_format(store, file, "npy", {"layout": layout})


def _export_format(store: str, file: str, name: str, options: dict[str, Any]) -> dict[str, float]:
    from mosaic_collect.export import export

    meter = Meter()
    meter.start()
    report = export(store, file, name, **options)
    figures = meter.stop()
    size = report.file_nbytes
    return {
        "mb_s": size / MB / figures["wall_s"],
        "cpu_s_per_gb": figures["cpu_s"] / size * 1e9,
        "peak_mb": figures["peak_mb"],
        "file_mb": size / MB,
        "pairs_s": report.num_pairs / figures["wall_s"],
    }


def _write_alone(store: str, file: str) -> dict[str, float]:
    import pyarrow as pa

    from mosaic_collect import TrajectoryDataset
    from mosaic_collect.export.parquet import ParquetFile, column

    dataset = TrajectoryDataset(store)
    fields = [dataset.schema[name] for name in dataset.schema.names]
    rows = {f.name: dataset.read(f.name, 0, 32).reshape(-1, *f.row_shape) for f in fields}
    nbytes = sum(values.nbytes for values in rows.values())
    times = max(1, dataset.num_steps // 32)
    meter = Meter()
    meter.start()
    with ParquetFile(file, pa.schema([column(pa, f.name, f) for f in fields])) as out:
        for _ in range(times):
            out.add(rows)
    with open(file, "r+b") as written:
        os.fsync(written.fileno())
    figures, size = meter.stop(), times * nbytes
    return {
        "mb_s": size / MB / figures["wall_s"],
        "cpu_s_per_gb": figures["cpu_s"] / size * 1e9,
        "peak_mb": figures["peak_mb"],
        "file_mb": os.path.getsize(file) / MB,
    }


def _dd(file: str, nbytes: int) -> dict[str, float]:
    blocks = max(1, nbytes // (4 << 20))
    command = ["dd", "if=/dev/zero", f"of={file}", "bs=4M", f"count={blocks}", "conv=fdatasync"]
    os.sync()
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    remove(file)
    return {"mb_s": blocks * (4 << 20) / MB / seconds, "file_mb": blocks * (4 << 20) / MB}


def _row(name: str, figures: list[dict[str, float]], sequential: float) -> dict[str, Any]:
    middle = medians(figures)
    return {
        "what": {"dd": "dd conv=fdatasync", _ALONE: _ALONE}.get(name, f"export, {name}"),
        "MB/s": middle["mb_s"],
        "of dd": f"{middle['mb_s'] / sequential:.2f}",
        "CPU s per GB": middle.get("cpu_s_per_gb"),
        "pairs/s": middle.get("pairs_s"),
        "peak RAM MB": middle.get("peak_mb"),
        "file MB": middle["file_mb"],
        "spread": f"{spread(f['mb_s'] for f in figures):.0%}",
    }
