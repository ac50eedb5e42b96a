"""The user's metadata: what is taken, and how what is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mosaic_collect.errors import InputError
from mosaic_collect.store.parsing import json_copy


def test_numpys_numbers_and_paths_are_as_good_as_pythons() -> None:
    given = {
        "count": np.int64(3),
        "flag": np.bool_(True),
        "rate": np.float32(0.5),
        "double": np.float64(0.1),
        "path": Path("/data/run"),
        "inner": (np.uint8(1), {np.int32(7): [np.int16(2)]}, MappingProxyType({"a": None})),
    }
    assert json.dumps(json_copy(given), sort_keys=True) == json.dumps(
        {
            "count": 3,
            "flag": True,
            "rate": 0.5,
            "double": 0.1,
            "path": "/data/run",
            "inner": [1, {"7": [2]}, {"a": None}],
        },
        sort_keys=True,
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "nan"),
        (np.float32("-inf"), "-inf"),
        ({1, 2}, "{1, 2}"),
        (np.zeros(2), "array"),
        (b"x", "b'x'"),
        (object(), "<object object"),
        (1j, "1j"),
    ],
)
def test_what_json_cannot_hold_is_named_by_its_place(value: Any, told: str) -> None:
    for entries, place in (
        ({"a": value}, "a"),
        ({"ok": 1, "policy": {"layers": [1, [2, value]]}}, r"policy\.layers\[1\]\[1\]"),
    ):
        with pytest.raises(InputError, match=f"JSON can hold, got {told}.* at {place}$"):
            json_copy(entries)


def test_keys_that_are_no_names() -> None:
    with pytest.raises(InputError, match=r"expected names as keys, got \(1, 2\) at a\.b"):
        json_copy({"a": {"b": {(1, 2): 3}}})


def test_nan_as_its_name() -> None:
    assert json_copy({"a": [float("nan")], "b": -np.inf}, True) == {"a": ["nan"], "b": "-inf"}
