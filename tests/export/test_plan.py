"""A decided export, before its first byte."""

from __future__ import annotations

import os

from mosaic_collect import TrajectoryDataset
from mosaic_collect.export.options import Options
from mosaic_collect.export.plan import plan_export
from tests.export import stores


def test_a_plan_is_of_the_files_exact_size(tmp_path: os.PathLike[str]) -> None:
    store = os.path.join(tmp_path, "s.zarr")
    stores.write(store, 3)
    plan = plan_export([TrajectoryDataset(store)], Options())
    end = max(offset + len(piece) for offset, piece in plan.file.pieces)
    assert end == plan.file.nbytes
