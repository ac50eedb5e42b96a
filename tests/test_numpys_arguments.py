"""NumPy's numbers and ``Path`` are as good as Python's numbers and texts, in every call."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaic_collect import (
    Field,
    Schema,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
    import_npy,
    verify_export,
    verify_store,
)
from tests import helpers

N = np.int64(4)


def test_from_the_first_step_to_the_last_file(tmp_path: Path) -> None:
    store, npy, again = (tmp_path / name for name in ("s.zarr", "e.npy", "again.zarr"))
    extra = (Field(name="phase", dtype="int16", default=np.int8(3)),)
    schema = Schema.mosaic(np.int32(3), np.uint8(2), extra=extra)
    with TrajectoryWriter(
        store,
        schema,
        N,
        buffer_mb=np.float32(helpers.buffer_mb(3, int(N), schema)),
        commit_seconds=np.float64(30),
        threads=np.int16(2),
        metadata={"seed": np.int64(7), "motions": tmp_path, "rate": np.float32(0.5)},
    ) as writer:
        for step in range(8):
            rows = helpers.rows(step, int(N), schema)
            writer.add_step(**{name: rows[name] for name in ("observations", "actions")})
        writer.end_trajectories([np.int64(1), np.uint8(3)])
        writer.update_metadata(ended=np.int64(2))
    dataset = TrajectoryDataset(store, threads=np.int64(1))
    told = {"seed": 7, "motions": str(tmp_path), "rate": 0.5, "ended": 2}
    assert dataset.metadata == told
    assert dataset.num_ended == 2
    assert dataset.read("phase", np.int64(6), np.uint8(8)).tolist() == [[3] * 4] * 2
    steps = dataset["observations"][np.int64(1) : np.int8(5) : np.int16(2), np.uint8(2)]
    np.testing.assert_array_equal(steps, dataset.read("observations")[1:5:2, 2])
    report = export_npy(store, npy, "compact", max_pairs=np.int64(9), seed=np.uint16(1))
    assert report.num_pairs == 9
    assert verify_store(store).ok
    assert verify_export([store], npy).ok
    assert import_npy(npy, again, buffer_mb=np.int64(4)).num_steps == 9
