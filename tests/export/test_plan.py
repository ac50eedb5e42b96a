"""A decided export, before its first byte."""

from __future__ import annotations

import os

import pytest

from mosaic_collect.errors import InputError
from mosaic_collect.export import Options, plan_export
from tests.export import stores


def test_a_plan_is_of_the_files_exact_size(tmp_path: os.PathLike[str]) -> None:
    store = os.path.join(tmp_path, "s.zarr")
    stores.write(store, 3)
    plan = plan_export(store, Options())
    end = max(offset + len(piece) for offset, piece in plan.file.pieces)
    assert end == plan.file.nbytes


def test_a_plan_says_what_the_file_will_be_and_writes_it(store: str, npy: str) -> None:
    stores.write(store, 9, masks=stores.some_masks(4))
    plan = plan_export(store, Options(layout="compact"))
    assert f"{plan.num_valid:,} pairs, compact" in plan.size_text
    assert not os.path.exists(npy)
    report = plan.write(npy)
    assert report.num_pairs == plan.num_valid
    assert report.file_nbytes == plan.file.nbytes == os.path.getsize(npy)
    assert plan.write(npy, None).shapes == report.shapes, "it can be written again"


def test_a_plan_is_written_to_no_place_that_is_none(store: str, tmp_path) -> None:
    stores.write(store, 2)
    plan = plan_export(store, Options())
    with pytest.raises(InputError, match="inside the store"):
        plan.write(os.path.join(store, "e.npy"))
    with pytest.raises(InputError, match=r"ending in \.npy"):
        plan.write(tmp_path / "e")
