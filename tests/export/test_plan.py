"""A decided export, before its first byte."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import export_npy
from mosaic_collect.errors import InputError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.store.posix import PosixBlobs
from tests.export import stores


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


@pytest.mark.parametrize("several", [False, True])
def test_each_root_document_is_read_once(
    tmp_path: Path, npy: str, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In object storage each read is a request."""
    paths = [str(tmp_path / f"{name}.zarr") for name in ("a", "b")[: 1 + several]]
    for path in paths:
        stores.write(path, 9, masks=stores.some_masks(4))
    reads, opened = Counter[str](), PosixBlobs.open

    def counted(self: PosixBlobs, key: str) -> Any:
        if key == "zarr.json":
            reads[self.address] += 1
        return opened(self, key)

    monkeypatch.setattr(PosixBlobs, "open", counted)
    export_npy(paths if several else paths[0], npy, layout="compact", max_pairs=5)
    assert reads == dict.fromkeys(paths, 1)
