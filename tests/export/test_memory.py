"""Export and comparison take the same memory whatever the size."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter
from tests import helpers

_BOUND_MB = 150
_SCHEMA = Schema.mosaic(obs_dim=154, action_dim=29, student_obs_dim=770)

_CODE = """
import json, sys

from mosaic_collect import export_npy
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.verify import verify_store

def peak_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))

warm, npy, layout, *stores = sys.argv[1:]
export_npy(warm, npy, layout=layout)  # libraries and thread pools
verify_export(warm, npy)
found = [peak_mb()]
size = export_npy(stores, npy, layout=layout).file_nbytes
found.append(peak_mb())
assert verify_export(stores, npy).ok
assert verify_store(stores[0]).ok
found.append(peak_mb())
print(json.dumps([size / 1e6, *found]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store of some 300 MB, one row in eight invalid, and a small one."""
    folder = tmp_path_factory.mktemp("large")
    num_envs, paths = 256, (str(folder / "large.zarr"), str(folder / "small.zarr"))
    generator = np.random.default_rng(0)
    for path, steps in zip(paths, (300, 2), strict=True):
        with TrajectoryWriter(path, _SCHEMA, num_envs, buffer_mb=64) as writer:
            for _ in range(steps):
                rows = {
                    f.name: np.full((num_envs, f.dim), generator.random(), np.float32)
                    for f in _SCHEMA.fields
                }
                writer.add_step(**rows, valid_mask=generator.random(num_envs) < 0.875)
    return paths


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize(("layout", "several"), [("grid", 0), ("compact", 0), ("compact", 1)])
def test_bounded(large: tuple[str, str], tmp_path, layout: str, several: int) -> None:
    store, warm = large
    npy, others = str(tmp_path / "e.npy"), [warm] * several
    done = helpers.run_python(_CODE, warm, npy, layout, store, *others, timeout=300)
    assert done.returncode == 0, done.stderr
    size, before, exported, verified = json.loads(done.stdout)
    assert size > 250
    assert exported - before < _BOUND_MB, "export"
    assert verified - before < _BOUND_MB, "comparison and verification"
