"""Exports, comparisons and imports take the same memory whatever the size."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter
from tests import helpers

_BOUND_MB, _IMPORT_MB = 150, 70  # an import takes the writer's buffer besides
_BUFFER_MB = 32
_SCHEMA = Schema.mosaic(obs_dim=154, action_dim=29, student_obs_dim=770)

_PEAK = """
def peak_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))
"""

_CODE = """
import json, sys

from mosaic_collect import export_npy
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.verify import verify_store

warm, npy, layout, fields, *stores = sys.argv[1:]
options = {"layout": layout, "fields": fields.split(",")}
export_npy(warm, f"{npy}.warm.npy", **options)  # libraries and thread pools
verify_export(warm, f"{npy}.warm.npy")
found = [peak_mb()]
size = export_npy(stores, npy, **options).file_nbytes
found.append(peak_mb())
assert verify_export(stores, npy).ok
assert verify_store(stores[0]).ok
found.append(peak_mb())
print(json.dumps([size / 1e6, *found]))
"""


_IMPORT = """
import sys
from mosaic_collect import import_npy

npy, buffer_mb = sys.argv[1:]
import_npy(f"{npy}.warm.npy", f"{npy}.warm", buffer_mb=4)  # libraries
print(peak_mb())
import_npy(npy, f"{npy}.zarr", buffer_mb=float(buffer_mb))
print(peak_mb())
"""


_FORMATS = """
import sys

import mosaic_collect.export.rows
from mosaic_collect.export import export, export_store

mosaic_collect.export.rows.BATCH_NBYTES = 2_000_000
form, *stores = sys.argv[1:]
for number, store in enumerate(stores):
    if form == "store":
        export_store(store, f"{store}.copy", buffer_mb=8)
    else:
        export(store, f"{store}.{form}", form, **({"fps": 50} if form == "lerobot" else {}))
    print(peak_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("form", "library"),
    [("hdf5", "h5py"), ("parquet", "pyarrow"), ("lerobot", "pyarrow"), ("store", "numpy")],
)
def test_formats_are_bounded(form: str, library: str, tmp_path) -> None:
    """Four times the steps, 240 MB more of values, take no more than 30 MB more."""
    pytest.importorskip(library)
    for name, steps in (("small", 160), ("large", 640)):
        _record(str(tmp_path / name), steps, 128)
    done = helpers.run_python(
        _PEAK + _FORMATS, form, str(tmp_path / "small"), str(tmp_path / "large")
    )
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    assert large - small < 30


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store of some 300 MB, one row in eight invalid, and a small one."""
    folder = tmp_path_factory.mktemp("large")
    paths = str(folder / "large.zarr"), str(folder / "small.zarr")
    for path, steps in zip(paths, (300, 2), strict=True):
        _record(path, steps, 256)
    return paths


def _record(path: str, steps: int, num_envs: int) -> None:
    generator = np.random.default_rng(0)
    with TrajectoryWriter(path, _SCHEMA, num_envs, buffer_mb=64) as writer:
        for _ in range(steps):
            rows = {
                f.name: np.full((num_envs, f.dim), generator.random(), np.float32)
                for f in _SCHEMA.fields
            }
            writer.add_step(**rows, valid_mask=generator.random(num_envs) < 0.875)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize(("layout", "several"), [("grid", 0), ("compact", 0), ("compact", 1)])
def test_bounded(large: tuple[str, str], tmp_path, layout: str, several: int) -> None:
    store, warm = large
    npy, others = str(tmp_path / "e.npy"), [warm] * several
    fields = ",".join([*_SCHEMA.names, "trajectory_id"])
    done = helpers.run_python(_PEAK + _CODE, warm, npy, layout, fields, store, *others)
    assert done.returncode == 0, done.stderr
    size, before, exported, verified = json.loads(done.stdout)
    assert size > 250
    assert exported - before < _BOUND_MB, "export"
    assert verified - before < _BOUND_MB, "comparison and verification"
    done = helpers.run_python(_PEAK + _IMPORT, npy, str(_BUFFER_MB))
    assert done.returncode == 0, done.stderr
    before, imported = map(float, done.stdout.split())
    assert imported - before < _BUFFER_MB + _IMPORT_MB, "import"
