"""Stores and exports of every released format version are read for ever; see tests/data."""

from __future__ import annotations

import glob
import json
import os
import shutil
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.export.compare import verify_export
from mosaic_collect.npyfile.read import scan_npy
from mosaic_collect.reading.verify import verify_store
from tests.data import make
from tests.helpers import assert_same

STORES = sorted(glob.glob(os.path.join(make.HERE, "*.zarr")))


@pytest.fixture(params=STORES, ids=os.path.basename)
def old(request: pytest.FixtureRequest, tmp_path: os.PathLike[str]) -> str:
    """A copy, as git keeps neither empty files nor times, and tests may write."""
    return shutil.copytree(request.param, os.path.join(tmp_path, "old.zarr"))


@pytest.fixture
def wanted(old: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    version = os.path.basename(request.node.callspec.params["old"]).split("-")[0]
    with np.load(os.path.join(make.HERE, f"{version}.npz")) as file:
        return dict(file)


def test_there_is_one_of_each_kind() -> None:
    assert [os.path.basename(s) for s in STORES] == [
        f"v{v}-{c}.zarr" for v in (2,) for c in ("lz4", "none", "zstd")
    ]


def test_it_is_read(old: str, wanted: dict[str, Any]) -> None:
    facts = json.loads(str(wanted.pop("facts")))
    dataset = TrajectoryDataset(old)
    assert set(dataset.fields) == set(wanted)
    for name, values in wanted.items():
        assert_same(dataset.read(name), values, name)
    assert dataset.status == "complete"
    assert dataset.num_valid == facts["num_valid"]
    assert dataset.num_ended == facts["num_trajectories"]
    assert dataset.metadata == facts["metadata"]
    assert [r.first_step for r in dataset.state.runs] == facts["first_steps"]
    assert [r.open_envs for r in dataset.state.runs] == facts["open_envs"]
    assert verify_store(old).ok


def test_it_is_gone_on_with(old: str, wanted: dict[str, Any]) -> None:
    with TrajectoryWriter(old, resume=True) as writer:
        assert writer.num_steps == 8
        make.add(writer, 5, masks=True)
    dataset = TrajectoryDataset(old)
    assert dataset.num_steps == 13
    for name, values in wanted.items():
        if name != "facts":
            assert_same(dataset.read(name, 0, 8), values, name)
    for step in range(8, 13):
        for name, values in make.row(step).items():
            assert_same(dataset.read(name, step, step + 1)[0], values, name)
    assert verify_store(old).ok


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_an_export_of_format_1(layout: str) -> None:
    store, path = (os.path.join(make.HERE, name) for name in ("v2-zstd.zarr", f"v1-{layout}.npy"))
    loaded = np.load(path, allow_pickle=True).item()
    dataset = TrajectoryDataset(store)
    mask = dataset.read("valid_mask")
    for name in ("observations", "targets", "contacts", "trajectory_id"):
        stored = dataset.read(name)
        want = stored if layout == "grid" else stored[mask][:, None]
        np.testing.assert_array_equal(loaded[name], want)
    assert set(scan_npy(path).arrays) == set(loaded) - {"metadata"}
    assert verify_export(store, path).ok
