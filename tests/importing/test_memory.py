"""An import takes the same memory whatever the size of the file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter, export_npy
from tests import helpers

_BUFFER_MB, _SCRATCH_MB = 32, 70
_SCHEMA = Schema.mosaic(obs_dim=154, action_dim=29, student_obs_dim=770)

_CODE = """
import json, sys

from mosaic_collect import import_npy

def peak_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))

warm, npy, store, buffer_mb = sys.argv[1:]
import_npy(warm, store + ".warm", buffer_mb=1)  # libraries
found = [peak_mb()]
size = import_npy(npy, store, buffer_mb=float(buffer_mb)).file_nbytes
print(json.dumps([size / 1e6, *found, peak_mb()]))
"""


@pytest.fixture(scope="module", params=["grid", "compact"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A file of some 300 MB, one row in eight invalid, and a small one."""
    folder = tmp_path_factory.mktemp("large")
    paths = []
    generator = np.random.default_rng(0)
    for name, num_envs, steps in (("large", 256, 300), ("small", 2, 2)):
        store, npy = str(folder / f"{name}.zarr"), str(folder / f"{name}.npy")
        with TrajectoryWriter(store, _SCHEMA, num_envs, buffer_mb=64) as writer:
            for _ in range(steps):
                rows = {
                    f.name: np.full((num_envs, f.dim), generator.random(), np.float32)
                    for f in _SCHEMA.fields
                }
                writer.add_step(**rows, valid_mask=generator.random(num_envs) < 0.875)
        names = [*_SCHEMA.names, "trajectory_id"]
        export_npy(store, npy, layout=request.param, fields=names)
        paths.append(npy)
    return tuple(paths)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_bounded(large: tuple[str, str], tmp_path) -> None:
    npy, warm = large
    store = str(tmp_path / "s.zarr")
    done = helpers.run_python(_CODE, warm, npy, store, str(_BUFFER_MB), timeout=300)
    assert done.returncode == 0, done.stderr
    size, before, after = json.loads(done.stdout)
    assert size > 250
    assert after - before < _BUFFER_MB + _SCRATCH_MB
