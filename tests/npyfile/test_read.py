"""Loading a ``.npy`` dict without unpickling it gives what ``np.load`` gives."""

from __future__ import annotations

import datetime as dt
import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.npyfile.layout import ArraySpec, plan_file
from mosaic_collect.npyfile.read import read_npy, scan_npy
from tests.npyfile import pickles
from tests.npyfile.test_scan import upstream


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


CONTENTS: dict[str, dict[str, Any]] = {
    "upstream": upstream(),
    "dtypes": {d: np.arange(6).reshape(2, 3).astype(d) for d in ("b1", "i2", "u4", "f2", "f8")},
    "empty": {"actions": np.zeros((0, 4, 2), "f4"), "metadata": {}},
    "plain": {
        "metadata": {
            "note": "Grüße",
            "dims": (3, [1, None, True], {"a": 2.5}),
            "large": 1 << 70,
            "count": np.int64(4),
            "nested": [np.arange(3), b"bytes"],
        }
    },
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("what", CONTENTS)
def test_as_numpy_loads_it(npy: str, what: str, protocol: int) -> None:
    pickles.write(npy, pickles.dump(CONTENTS[what], protocol))
    same(read_npy(npy), np.load(npy, allow_pickle=True).item())


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


class Author:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


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


def test_code_does_not_run(npy: str, tmp_path: Path) -> None:
    mark = str(tmp_path / "ran")
    np.save(npy, {"metadata": Author(mark)}, allow_pickle=True)
    with pytest.raises(CorruptExportError, match=r"posix\.mkdir"):
        read_npy(npy)
    assert not os.path.exists(mark)


def test_a_byte_that_is_no_bool(npy: str) -> None:
    mask = pickles.array(pickles.shape_of(2, 1), pickles.values_of(b"\x01\x05"), "b1", "|")
    pickles.write(npy, pickles.dict_of(valid_mask=mask))
    with pytest.raises(CorruptExportError, match="expected bool, got a byte of 5"):
        read_npy(npy)


@pytest.mark.parametrize("shape", [(0, 1 << 47, 1 << 47), (1 << 40, 0, 1 << 40, 1 << 40)])
def test_axes_too_long_for_numpy(npy: str, shape: tuple[int, ...]) -> None:
    """No value and axes that NumPy cannot hold: every check of sizes alone would pass."""
    plan = plan_file({"observations": ArraySpec(shape, "float32")}, {"metadata": {}})
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


def test_the_standard_library_still_has_its_pickle_machine() -> None:
    """The reader builds on ``pickle._Unpickler``, which is in CPython since 3.0, but not public."""
    machine = pickle._Unpickler
    assert {"load", "find_class", "pop_mark", "dispatch"} <= set(dir(machine))
    assert all(code in machine.dispatch for code in (pickle.MARK[0], pickle.BUILD[0]))
