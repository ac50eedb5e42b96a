"""Files that cannot become a store: told why, each key by name, and nothing written."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mosaic_collect import export_npy, import_npy
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.store.schema import VALID_MASK
from tests.export import stores
from tests.importing import files


def refused(npy: str, made: str, *words: str) -> None:
    before = sorted(os.listdir(os.path.dirname(made)))
    with pytest.raises(CorruptExportError) as failure:
        import_npy(npy, made)
    for word in (npy, *words):
        assert word in str(failure.value)
    assert sorted(os.listdir(os.path.dirname(made))) == before


def f4(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"actions": f4(11, 5, 2)}, ["actions: expected [11, 4, D], got [11, 5, 2]"]),
    ({"actions": f4(10, 4, 2)}, ["actions: expected [11, 4, D], got [10, 4, 2]"]),
    ({"actions": f4(44, 2)}, ["actions: expected [11, 4, D], got [44, 2]"]),
    ({"actions": f4(11, 4)}, ["actions: expected [11, 4, D], got [11, 4]"]),
    ({"actions": f4(11, 4, 2, 1)}, ["actions: expected [11, 4, D], got [11, 4, 2, 1]"]),
    ({"actions": f4(11, 4, 0)}, ["actions: expected [11, 4, D], got [11, 4, 0]"]),
    ({"actions": f4(11, 4, 2).astype("i4")}, ["actions: expected floats, got int32"]),
    ({"valid_mask": np.ones((11, 4, 1), bool)}, ["valid_mask: expected [11, 4], got [11, 4, 1]"]),
    ({"valid_mask": np.ones((7, 4), bool)}, ["valid_mask: expected [11, 4], got [7, 4]"]),
    ({"valid_mask": f4(11, 4)}, ["valid_mask: expected bool, got float32"]),
    ({"trajectory_id": f4(11, 4)}, ["trajectory_id: expected whole numbers, got float32"]),
    ({"motion_id": f4(11)}, ["motion_id: expected [11, 4] or [11, 4, D], got [11]"]),
    ({"motion_id": f4(11, 4, *[1] * 9)}, ["motion_id: expected [11, 4] or"]),
    ({"a b": f4(11, 4)}, ["field name 'a b'"]),
    ({"Valid_Mask": np.ones((11, 4), bool)}, ["'Valid_Mask'"]),
    ({"Actions": f4(11, 4, 2)}, ["'actions' is there twice"]),
    ({"actions": None}, ["expected actions, got"]),
    ({"observations": None, "student_observations": None}, ["expected observations or"]),
    ({"valid_mask": None}, ["the metadata tells of a valid_mask"]),
    (
        {"student_observations": f4(3, 4, 5), "actions": f4(11, 4)},
        ["student_observations: expected [11, 4, D], got [3, 4, 5]", "actions: expected"],
    ),
    ({"observations": f4(0, 4, 3)}, ["observations: expected [T, N, D]", "(0, 4, 3)"]),
    ({"observations": f4(11, 0, 3)}, ["observations: expected [T, N, D]", "(11, 0, 3)"]),
    ({"observations": f4(11, 4, 2, 2)}, ["observations: expected [11, 4, D], got [11, 4, 2, 2]"]),
    ({"observations": f4(11)}, ["observations: expected [T, N, D]", "(11,)"]),
    ({"observations": f4(1, 1 << 24 | 1, 1)}, ["observations: expected [T, N, D]"]),
    ({"actions": np.asfortranarray(f4(11, 4, 2))}, ["actions: Fortran order"]),
    ({"actions": f4(11, 4, 2).astype(">f4")}, ["byte order >"]),
    ({"actions": f4(11, 4, 2).astype("c8")}, ["actions: dtype c8"]),
    ({"actions": np.array([[["x"]]])}, ["a dtype is not"]),
    ({"metadata": {"x": f4(2)}}, ["metadata: expected text, numbers"]),
    ({"metadata": {"x": b"bytes"}}, ["metadata"]),
    ({"comment": b"bytes"}, ["metadata: expected text"]),
]


@pytest.mark.parametrize(("changes", "words"), CASES)
def test_refused(npy: str, made: str, changes: dict[str, Any], words: list[str]) -> None:
    files.save(npy, **changes)
    refused(npy, made, *words)


@pytest.mark.parametrize("byte", [2, 255])
def test_a_mask_of_other_bytes_than_0_and_1(npy: str, made: str, byte: int) -> None:
    data = files.grid()
    raw = data[VALID_MASK].astype(np.uint8)
    raw[10, 3] = byte
    np.save(npy, {**data, VALID_MASK: raw.view(bool)})
    refused(npy, made, f"valid_mask: expected bool, got a byte of {byte}")


@pytest.mark.parametrize("content", [None, {"metadata": {}}, [1, 2], f4(3, 3)])
def test_no_dict_of_arrays(npy: str, made: str, content: Any) -> None:
    np.save(npy, content, allow_pickle=True)
    refused(npy, made)


def test_an_export_that_holds_the_mask_alone(store: str, npy: str, made: str) -> None:
    stores.write(store, 3)
    export_npy(store, npy)
    data = stores.load(npy)
    np.save(npy, {VALID_MASK: np.ones((3, 4), bool), "metadata": data["metadata"]})
    refused(npy, made, "at least one field")


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_file_that_is_cut_off(npy: str, made: str, left: int) -> None:
    files.save(npy)
    os.truncate(npy, left if left >= 0 else os.path.getsize(npy) - 1)
    refused(npy, made)


def test_a_folder_and_no_file(tmp_path, made: str) -> None:
    with pytest.raises(CorruptExportError, match="no regular file"):
        import_npy(tmp_path, made)
    with pytest.raises(FileNotFoundError):
        import_npy(tmp_path / "no.npy", made)
    assert not os.path.exists(made)
