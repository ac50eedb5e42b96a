"""The file loads in NumPy 1.21 to 2.x, without warnings, as the same arrays.

Interpreters come from ``MOSAIC_COLLECT_NUMPY_PYTHONS`` (paths with ``:`` between) and from the
environments ``.venv*`` in the checkout; ``scripts/test.sh`` makes those of old NumPy versions where
it finds a Python for them.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from mosaic_collect import Field, Schema, export_npy
from mosaic_collect.npyfile.read import scan_npy
from tests import helpers
from tests.export import stores

VERSIONS = ("1.21", "1.26.0", "1.26.4", "2")  # 1.26.0 is Isaac Sim's
SCHEMA = Schema.mosaic(
    3,
    2,
    5,
    extra=(Field(name="motion_id", dtype="int32"), Field(name="flags", dim=2, dtype="bool")),
)

_LOAD = """
import json, sys, zlib
import numpy as np
data = np.load(sys.argv[1], allow_pickle=True).item()
told = {}
for key, value in data.items():
    if key == "metadata":
        continue
    assert type(value) is np.ndarray and value.flags.writeable and value.flags.c_contiguous, key
    value[:1] = value[:1]
    told[key] = [list(value.shape), str(value.dtype), zlib.crc32(value.tobytes())]
assert type(data["metadata"]) is dict
told["num_steps"] = data["metadata"]["num_steps"]
print(json.dumps(told))
"""

_SAVE = """
import sys
import numpy as np
values = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
metadata = {"num_trajectories": np.int64(3), "num_steps": 8, "obs_dim_dict": {"policy": 3},
            "action_dim": 3, "has_valid_mask": True, "share": np.float64(0.5)}
mask = np.ones((2, 4), bool)
data = {"observations": values, "actions": -values, "valid_mask": mask, "metadata": metadata}
np.save(sys.argv[1], data)
"""


@functools.cache
def interpreters() -> dict[str, str]:
    """NumPy version -> a Python that has it; this one's is left to the other tests."""
    named = os.environ.get("MOSAIC_COLLECT_NUMPY_PYTHONS", "").split(os.pathsep)
    found = sorted(glob.glob(os.path.join(helpers.REPO, ".venv*", "bin", "python")))
    pythons = {}
    for python in (*filter(None, named), *found, sys.executable):
        code = "import numpy; print(numpy.__version__)"
        try:
            done = subprocess.run(
                [python, "-c", code], capture_output=True, text=True, timeout=300, check=False
            )
        except OSError:
            continue
        if done.returncode == 0:
            pythons.setdefault(done.stdout.strip(), python)
    return pythons


def python_with(version: str) -> str:
    """A Python with this NumPy, or a reason to skip."""
    for found, python in interpreters().items():
        if found == version or found.startswith(version + "."):
            return python
    pytest.skip(
        f"no Python with NumPy {version}: scripts/test.sh makes one if it can, or name one in "
        "MOSAIC_COLLECT_NUMPY_PYTHONS"
    )


def run(python: str, code: str, path: str) -> str:
    done = subprocess.run(
        [python, "-W", "error", "-c", code, path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("layout", ["grid", "compact"])
@pytest.mark.parametrize("version", VERSIONS)
def test_loads_there(store: str, npy: str, version: str, layout: str) -> None:
    python = python_with(version)
    stores.write(store, 9, schema=SCHEMA, masks=stores.some_masks(4))
    names = [f.name for f in SCHEMA.fields]
    export_npy(store, npy, layout=layout, fields=[*names, "trajectory_id"])
    told = json.loads(run(python, _LOAD, npy))

    data = stores.load(npy)
    assert told.pop("num_steps") == data["metadata"]["num_steps"]
    assert told == {
        key: [list(value.shape), str(value.dtype), zlib.crc32(value.tobytes())]
        for key, value in data.items()
        if key != "metadata"
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_saved_there_can_be_scanned_here(npy: str, version: str) -> None:
    """Upstream's collector saves with ``np.save``."""
    run(python_with(version), _SAVE, npy)
    file = scan_npy(npy)
    if version == "2" and not hasattr(np, "_core"):
        pytest.skip(f"NumPy {np.__version__} itself cannot load what NumPy 2 saves, to compare")
    data = np.load(npy, allow_pickle=True).item()
    assert file.plain["metadata"] == data["metadata"]
    assert set(file.arrays) == {"observations", "actions", "valid_mask"}
    for name, stored in file.arrays.items():
        found = np.memmap(npy, stored.dtype, "r", stored.offset, stored.shape)
        np.testing.assert_array_equal(found, data[name])
