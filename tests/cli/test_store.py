"""``mosaic-collect store``: a filtered copy by the words of the command line."""

from __future__ import annotations

import json
from typing import Any

from mosaic_collect import TrajectoryDataset, export_store
from tests import helpers


def test_filters_and_figures(cli: Any, tmp_path: Any) -> None:
    path, target, same = (str(tmp_path / name) for name in ("a.zarr", "b.zarr", "c.zarr"))
    helpers.record(path, 12, masks=True)
    words = ("--steps", "2:9", "--fields", "actions", "--compressor", "none", "--json")
    done = cli("store", path, target, *words)
    assert done.code == 0, done.err
    report = export_store(path, same, steps="2:9", fields=["actions"], compressor="none")
    assert json.loads(done.out)["num_pairs"] == report.num_pairs
    found, want = TrajectoryDataset(target), TrajectoryDataset(same)
    assert found.schema.names == ("actions",)
    assert found.state.compressor.name == "none"
    helpers.assert_same(found.read("actions"), want.read("actions"))
    for words, message in (
        ((path,), "expected a store before the new store's name"),
        ((path, path), "the same store as"),
        ((path, "x.zarr", "--steps", "9:2:2"), "steps"),
    ):
        refused = cli("store", *words)
        assert refused.code == 2
        assert message in refused.err
