"""Files of this package and of ``np.save`` are read as ``np.load`` has them, others are refused."""

from __future__ import annotations

import datetime as dt
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import export_npy
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.layout import plan_file
from mosaic_collect.npyfile.read import NpyFile, read_npy, scan_npy
from tests.export import stores
from tests.npyfile import pickles

METADATA = {
    "num_trajectories": 3,
    "num_steps": 70_000,
    "obs_dim_dict": {"policy": 3, "student": 5},
    "action_dim": 2,
    "has_valid_mask": True,
    "note": "ä" * 300,
    "share": 0.25,
    "none": None,
    "big": -(2**70),
    "list": [1, -2, 2**31],
    "tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
}


def upstream() -> dict[str, Any]:
    """The dict as MOSAIC's own collector saves it."""
    generator = np.random.default_rng(0)
    arrays = {
        "observations": generator.random((6, 4, 3), np.float32),
        "student_observations": generator.random((6, 4, 5), np.float32),
        "actions": generator.random((6, 4, 2), np.float32),
        "valid_mask": generator.random((6, 4)) < 0.5,
    }
    return {**arrays, "metadata": METADATA}


def read_array(file: NpyFile, name: str) -> np.ndarray:
    """One array of a scanned file as a read-only memory map."""
    stored = file.arrays[name]
    return np.memmap(file.path, stored.dtype, "r", stored.offset, stored.shape)


def same(got: Any, want: Any) -> None:
    """Equal in type, too, but for NumPy's numbers, which become Python's."""
    if isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert type(got) is type(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    else:
        want = want.item() if isinstance(want, np.generic) else want
        assert (type(got), got) == (type(want), want)


def check(path: str, data: dict[str, Any]) -> None:
    file = scan_npy(path)
    same(file.plain, {k: v for k, v in data.items() if not isinstance(v, np.ndarray)})
    assert list(file.arrays) == [k for k, v in data.items() if isinstance(v, np.ndarray)]
    assert file.nbytes == os.path.getsize(path)
    for name in file.arrays:
        same(np.asarray(read_array(file, name)), data[name])
    same(read_npy(path), data)


ARRAYS = {
    **{
        kind: np.arange(6).reshape(3, 2).astype(kind)
        for kind in ("bool", "int8", "uint16", "int32", "uint64", "float16", "double")
    },
    **{str(shape): np.ones(shape, np.float32) for shape in ((0, 1, 3), (1,), (2, 0), (1, 1, 1))},
    "larger than a frame": np.arange(300_000, dtype=np.float32).reshape(100, 1000, 3),
    "Fortran order of one axis": np.asfortranarray(np.arange(5.0).reshape(5, 1, 1)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_np_save_writes(npy: str, name: str) -> None:
    data = {"a": ARRAYS[name], "metadata": {"x": 1}}
    np.save(npy, data)
    check(npy, data)


@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_both_versions(npy: str, version: int) -> None:
    pickles.write(npy, pickles.dump(upstream()), pickles.header(version=version))
    check(npy, upstream())


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_what_np_save_of_other_numpys_writes(npy: str, protocol: int, module: bytes) -> None:
    pickled = pickles.dump(upstream(), protocol)
    if protocol == 3:
        for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
            pickled = pickled.replace(b"c" + name + b"\n", b"c" + module + b"\n")
    check(pickles.write(npy, pickled), upstream())


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values_are_pythons_own(npy: str, protocol: int) -> None:
    """NumPy's numbers, too; arrays stay what they are, however deep."""
    metadata = {
        "note": "Grüße",
        "dims": (3, [1, None, True], {"a": 2.5}),
        "large": 1 << 70,
        "count": np.int64(4),
        "share": np.float64(0.5),
        "flag": np.bool_(True),
        "small": np.float32(0.25),
        "nested": [np.arange(3), b"bytes"],
    }
    pickles.write(npy, pickles.dump({"metadata": metadata}, protocol))
    same(read_npy(npy), {"metadata": metadata})
    assert type(scan_npy(npy).plain["metadata"]["count"]) is int


def test_our_own(store: str, npy: str) -> None:
    stores.write(store, 9, masks=stores.some_masks(4), schema=stores.STUDENT)
    for layout in ("grid", "compact"):
        export_npy(store, npy, layout=layout)
        check(npy, stores.load(npy))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((3, 4, 2), np.float32),
        np.zeros((), np.float32),
        np.array([{"a": 1}], dtype=object),
        [1, 2],
        "text",
        None,
        {1: np.zeros(3)},
    ],
)
def test_no_dict_with_names_as_keys(npy: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        np.save(npy, value, allow_pickle=True)
    else:
        pickles.write(npy, pickles.dump(value))
    with pytest.raises(CorruptExportError):
        scan_npy(npy)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)), "Fortran"),
        (np.arange(6, dtype=">f4").reshape(1, 2, 3), "byte order"),
        (np.array([[1, "two", None]], dtype=object), r"expert\.npy: a\b"),
        (np.zeros(3, "U5"), r"expert\.npy: a\b"),
        (np.zeros(3, "S5"), r"expert\.npy: a\b"),
        (np.zeros(3, "M8[s]"), r"expert\.npy: a\b"),
        (np.zeros(3, [("x", "f4"), ("y", "i2")]), r"expert\.npy: a\b"),
        (np.zeros(3, np.complex64), r"expert\.npy: a\b"),
    ],
)
def test_arrays_that_mosaic_cannot_take(npy: str, value: np.ndarray, words: str) -> None:
    np.save(npy, {"a": value, "metadata": {}})
    with pytest.raises(CorruptExportError, match=words):
        scan_npy(npy)


def test_no_such_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        scan_npy(tmp_path / "nothing.npy")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x93", b"\x93NUMPY", b"\x93NUMPY\x01\x00", b"PK\x03\x04 an npz", b"\x00" * 500),
        b"\x93NUMPY\x07\x00" + b"\x00" * 100,
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16,
    ],
)
def test_no_npy_at_all(npy: str, data: bytes) -> None:
    with open(npy, "wb") as file:
        file.write(data)
    with pytest.raises(CorruptExportError):
        scan_npy(npy)


def test_cut_off_anywhere(store: str, npy: str) -> None:
    stores.write(store, 2, num_envs=2)
    export_npy(store, npy)
    with open(npy, "rb") as file:
        data = file.read()
    for end in range(len(data)):
        with open(npy, "wb") as file:
            file.write(data[:end])
        with pytest.raises(CorruptExportError):
            scan_npy(npy)


def test_only_what_lies_between_the_values_is_read(npy: str, monkeypatch: Any) -> None:
    """A file of gigabytes is scanned at once: here one that is mostly a hole."""
    begin = pickles.write_hole(npy)
    file = scan_npy(npy)
    assert file.arrays["a"].offset == begin
    assert file.arrays["a"].shape == (1 << 20, 1 << 10, 1)


def test_the_pickles_made_here_are_ones_that_numpy_loads() -> None:
    """The tests of hostile files alter this one: it must be good itself."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = pickles.array(pickles.shape_of(2, 3), pickles.values_of(values.tobytes()))
    data = pickles.header() + pickles.dict_of(a=array, metadata=b"}")
    found = np.load(io.BytesIO(data), allow_pickle=True).item()
    np.testing.assert_array_equal(found["a"], values)
    assert found["metadata"] == {}


def test_what_is_there_twice_is_read_once(npy: str) -> None:
    rows = np.arange(6.0).reshape(2, 3)
    inner = [1, 2]
    np.save(npy, {"a": rows, "b": rows, "metadata": {"x": inner, "y": inner}}, allow_pickle=True)
    content = read_npy(npy)
    assert np.shares_memory(content["a"], content["b"])
    assert content["metadata"]["x"] is content["metadata"]["y"]
    content["a"][0, 0] = 7  # the caller's own, and writable
    assert np.load(npy, allow_pickle=True).item()["a"][0, 0] == 0


def test_a_list_that_holds_itself(npy: str) -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    np.save(npy, {"metadata": inner}, allow_pickle=True)
    loaded = read_npy(npy)["metadata"]
    assert loaded[1] is loaded


def test_a_bomb_is_as_large_as_its_file(npy: str) -> None:
    pickles.write(npy, pickles.dict_of(metadata=pickles.bomb(60)))
    assert len(read_npy(npy)["metadata"]) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (dt.date(2026, 1, 1), "datetime.date"),
        (Path("x"), "pathlib"),
        (np.array(["a"]), "a dtype is not made as NumPy makes one"),
        (os.getcwd, "posix.getcwd"),
        (np.float32, "numpy.float32"),
        (1j, "complex"),
    ],
)
def test_what_it_will_not_give_is_named(npy: str, value: Any, words: str) -> None:
    np.save(npy, {"actions": np.zeros(2), "metadata": {"inner": value}}, allow_pickle=True)
    with pytest.raises(CorruptExportError, match=words):
        read_npy(npy)


def test_a_byte_that_is_no_bool(npy: str) -> None:
    mask = pickles.array(pickles.shape_of(2, 1), pickles.values_of(b"\x01\x05"), "b1", "|")
    pickles.write(npy, pickles.dict_of(valid_mask=mask))
    with pytest.raises(CorruptExportError, match="expected bool, got a byte of 5"):
        read_npy(npy)


@pytest.mark.parametrize("shape", [(0, 1 << 47, 1 << 47), (1 << 40, 0, 1 << 40, 1 << 40)])
def test_axes_too_long_for_numpy(npy: str, shape: tuple[int, ...]) -> None:
    """No value and axes that NumPy cannot hold: every check of sizes alone would pass."""
    plan = plan_file({"observations": (shape, "float32")}, {"metadata": {}})
    with open(npy, "wb") as file:
        for offset, data in plan.pieces:
            file.seek(offset)
            file.write(data)
    with pytest.raises(CorruptExportError, match="observations: axes too long for NumPy"):
        scan_npy(npy)
    if find_spec("torch") is not None:
        from mosaic_collect import ExpertTrajectoryCollector

        with pytest.raises(CorruptExportError, match="observations: axes too long for NumPy"):
            ExpertTrajectoryCollector.load(npy)
