"""Exports that an earlier release wrote load, scan and compare for ever; see tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.export.compare import verify_export
from mosaic_collect.npyfile.read import scan_npy

DATA = Path(__file__).parents[1] / "data"
STORE = DATA / "v2-zstd.zarr"


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_an_export_of_format_1(layout: str) -> None:
    path = DATA / f"v1-{layout}.npy"
    loaded = np.load(path, allow_pickle=True).item()
    dataset = TrajectoryDataset(STORE)
    mask = dataset.read("valid_mask")
    for name in ("observations", "targets", "contacts", "trajectory_id"):
        stored = dataset.read(name)
        want = stored if layout == "grid" else stored[mask][:, None]
        np.testing.assert_array_equal(loaded[name], want)
    assert set(scan_npy(path).arrays) == set(loaded) - {"metadata"}
    assert verify_export(STORE, path).ok
