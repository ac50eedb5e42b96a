"""Slabs, chunks and blocks of every size: the file must not show them."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import Field, export_npy
from mosaic_collect.export.compare import verify_export
from tests import helpers
from tests.export import stores

EXTRA = (Field(name="motion_id", dtype="int32"), Field(name="double", dim=3, dtype="float64"))
SCHEMA = stores.STUDENT.with_fields(*EXTRA)
NAMES = (*stores.MOSAIC_NAMES, "student_observations", "motion_id", "double")


def irregular(num_envs: int):
    """Masks without any regularity, with steps and environments that are all False."""
    generator = np.random.default_rng(num_envs)
    masks = generator.random((64, num_envs)) < 0.6
    masks[5] = False
    masks[:, num_envs // 2] = False
    return lambda step: masks[step]


@pytest.mark.parametrize("compressor", ["auto", "none"])
@pytest.mark.parametrize("slab", [1, 150, 8 << 20])
@pytest.mark.parametrize(("num_envs", "steps", "block_steps"), [(7, 11, 4), (3, 12, 4), (13, 9, 2)])
def test_compact_and_grid_hold_just_what_was_recorded(
    small_chunks: int,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    npy: str,
    compressor: str,
    slab: int,
    num_envs: int,
    steps: int,
    block_steps: int,
) -> None:
    monkeypatch.setattr("mosaic_collect.reading.selection.CELL_NBYTES", slab)
    recorded = stores.write(
        store,
        steps,
        num_envs=num_envs,
        block_steps=block_steps,
        masks=irregular(num_envs),
        schema=SCHEMA,
        compressor=compressor,
    )
    state = helpers.TrajectoryDataset(store).state
    assert any(g.padded_envs > num_envs for g in state.grids().values()), "a case without padding"

    export_npy(store, npy, layout="compact", fields=NAMES)
    stores.assert_compact(npy, recorded, recorded["valid_mask"], NAMES)
    assert verify_export(store, npy).ok

    export_npy(store, npy, layout="grid", fields=NAMES)
    data = stores.load(npy)
    for name in (*NAMES, "valid_mask"):
        want = recorded[name]
        want = want.astype(np.float32) if want.dtype.kind == "f" else want
        helpers.assert_same(data[name], want, name)
    assert verify_export(store, npy).ok


def test_one_environment_and_one_step(store: str, npy: str) -> None:
    recorded = stores.write(store, 1, num_envs=1)
    for layout in ("grid", "compact"):
        export_npy(store, npy, layout=layout)
        helpers.assert_same(stores.load(npy)["actions"], recorded["actions"])


def test_one_pair_of_many(store: str, npy: str) -> None:
    def masks(step: int) -> np.ndarray:
        return (np.arange(5) == 3) & (step == 7)

    recorded = stores.write(store, 11, num_envs=5, masks=masks)
    export_npy(store, npy)
    stores.assert_compact(npy, recorded, recorded["valid_mask"], stores.MOSAIC_NAMES)


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_progress_is_told_all_bytes_of_arrays_and_nothing_is_shown(
    store: str, npy: str, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stores.write(store, 8)
    told: list[int] = []
    report = export_npy(store, npy, layout=layout, progress=told.append)
    assert len(told) > 1
    assert sum(told) == report.device_nbytes
    export_npy(store, npy)
    assert capsys.readouterr() == ("", "")
