"""``verify_export``: an export held against its store, bit by bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, export_npy
from mosaic_collect.errors import (
    CorruptExportError,
    CorruptStoreError,
    MosaicCollectError,
    StoreNotFoundError,
)
from mosaic_collect.export.compare import verify_export
from mosaic_collect.npyfile.read import scan_npy
from tests import helpers
from tests.export import stores
from tests.npyfile import pickles

OPTIONS: list[dict[str, Any]] = [
    {},
    {"layout": "grid"},
    {"layout": "compact"},
    {"fields": ["actions", "trajectory_id", "motion_id"]},
    {"max_pairs": 11, "seed": 4},
    {"exclude_interrupted": True},
    {"skip_damaged": True, "fields": ["observations", "actions"]},
]
SCHEMA = stores.STUDENT.with_fields(Field(name="motion_id", dtype="int32"))


def written(store: str, **options: Any) -> stores.Rows:
    return stores.write(
        store, 13, masks=stores.some_masks(4), ends={6: [0, 1], 12: [2]}, schema=SCHEMA, **options
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_an_export_of_the_store_is_ok(
    request: pytest.FixtureRequest, store: str, npy: str, options: dict[str, Any], padded: bool
) -> None:
    if padded:
        request.getfixturevalue("small_chunks")
    written(store)
    export_npy(store, npy, **options)
    told: list[int] = []
    report = verify_export(store, npy, told.append)
    assert report.ok
    assert report.problems == ()
    arrays = scan_npy(npy).arrays
    assert report.checked == len(arrays)
    assert report.nbytes == sum(a.nbytes for a in arrays.values()) == sum(told)


@pytest.mark.parametrize("options", [{"layout": "grid"}, {"max_pairs": 9}])
def test_a_flipped_bit_anywhere_in_an_array_is_found(
    store: str, npy: str, options: dict[str, Any]
) -> None:
    written(store)
    export_npy(store, npy, **options)
    found = []
    for name, stored in scan_npy(npy).arrays.items():
        first, last = stored.offset, stored.offset + stored.nbytes - 1
        for at in (first, (first + last) // 2, last):
            stores.flip(npy, at, 1)
            report = verify_export(store, npy)
            assert not report.ok
            assert len(report.problems) == 1
            assert report.problems[0].startswith(f"{name}, block ")
            assert "1 rows differ" in report.problems[0]
            found.append(report.problems[0])
            stores.flip(npy, at, 1)
    assert verify_export(store, npy).ok
    if options.get("layout") == "grid":
        assert any(", block 0:" in text for text in found)
        assert any(", block 4:" in text for text in found)


#: Told of each altered file by a process of its own: what NumPy makes of torn bytes may kill it.
_LOADS = """
import pickle, sys
import numpy as np
try:
    data = np.load(sys.argv[1], allow_pickle=True).item()
    # Provenance is in the file alone, so there is nothing to compare it with.
    data["metadata"] = {k: v for k, v in data["metadata"].items() if k != "mosaic_collect"}
    order = sorted(data)
    sys.stdout.write(pickle.dumps([(k, data[k]) for k in order]).hex())
except Exception as error:
    print(type(error).__name__)
"""


def test_a_flipped_bit_around_the_arrays_is_found_or_harmless(store: str, npy: str) -> None:
    """What ``verify_export`` calls good loads in NumPy, as just what the store holds."""
    stores.write(store, 3, num_envs=2, masks=stores.some_masks(2))
    export_npy(store, npy, layout="grid")
    before = helpers.run_python(_LOADS, npy).stdout
    arrays = scan_npy(npy).arrays.values()
    content = np.zeros(os.path.getsize(npy), bool)
    for stored in arrays:
        content[stored.offset : stored.offset + stored.nbytes] = True
    around = np.flatnonzero(~content)
    end = Path(npy).read_bytes().index(b"mosaic_collect")
    around = around[around < end]
    generator = np.random.default_rng(0)
    passed = []
    for at in around.tolist():
        bit = 1 << int(generator.integers(8))
        stores.flip(npy, at, bit)
        if _is_ok(store, npy):
            copy = f"{npy}.{at}.npy"
            shutil.copy(npy, copy)
            passed.append((at, bit, copy))
        stores.flip(npy, at, bit)
    harmful = [
        (at, bit) for at, bit, copy in passed if helpers.run_python(_LOADS, copy).stdout != before
    ]
    assert not harmful, "verify says ok, NumPy loads something else or nothing"


def _is_ok(store: str, npy: str) -> bool:
    try:
        return verify_export(store, npy).ok
    except MosaicCollectError:
        return False


def test_exchanged_rows_are_found(store: str, npy: str) -> None:
    written(store)
    export_npy(store, npy, layout="compact")
    stored = scan_npy(npy).arrays["actions"]
    rows = np.memmap(npy, stored.dtype, "r+", stored.offset, stored.shape)
    rows[[3, 4]] = rows[[4, 3]]
    rows.flush()
    report = verify_export(store, npy)
    assert not report.ok
    assert "2 rows differ" in report.problems[0]


def test_another_store_is_found(store: str, npy: str) -> None:
    written(store)
    export_npy(store, npy)
    longer, wider, other = (f"{store}.{n}" for n in ("longer", "wider", "other"))
    stores.write(longer, 14, masks=stores.some_masks(4), schema=SCHEMA)
    stores.write(wider, 13, num_envs=5, masks=stores.some_masks(5), schema=SCHEMA)
    stores.write(
        other, 13, first=1, masks=lambda step: stores.some_masks(4)(step - 1), schema=SCHEMA
    )
    assert "13 steps, the store has 14" in verify_export(longer, npy).problems[0]
    assert "4 envs, the store has 5" in verify_export(wider, npy).problems[0]
    assert not verify_export(other, npy).ok


def _changed(npy: str, **changes: Any) -> None:
    data = stores.load(npy)
    data.update(changes)
    Path(npy).write_bytes(pickles.header() + pickles.dump(data))


def test_another_shape_dtype_or_set_of_arrays_is_found(store: str, npy: str) -> None:
    written(store)
    export_npy(store, npy, layout="compact")
    data = stores.load(npy)
    _changed(npy)
    assert verify_export(store, npy).ok, "np.save of the same arrays is the same export"

    for changes, words in (
        ({"actions": data["actions"][:-1]}, "actions"),
        ({"actions": data["actions"].astype(np.float64)}, "actions"),
        ({"actions": data["actions"].reshape(-1, 2)}, "actions"),
        ({"extra": data["actions"]}, "extra"),
        ({"valid_mask": np.ones((30, 1), bool)}, "valid_mask"),
    ):
        export_npy(store, npy, layout="compact")
        _changed(npy, **changes)
        report = verify_export(store, npy)
        assert not report.ok
        assert report.problems[0].startswith(words)


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 1},
        {"num_trajectories": 99},
        {"has_valid_mask": True},
        {"obs_dim_dict": {}},
        {"more": 1},
    ],
)
def test_metadata_that_lies_is_found(store: str, npy: str, change: dict[str, Any]) -> None:
    written(store)
    export_npy(store, npy, layout="compact")
    metadata = {**stores.load(npy)["metadata"], **change}
    _changed(npy, metadata=metadata)
    report = verify_export(store, npy)
    assert [p[:9] for p in report.problems] == ["metadata:"]


@pytest.mark.parametrize(
    "change",
    [
        {"options": None},
        {"options": {"unknown": 1}},
        {"options": {"fields": 5}},
        {"options": {"fields": [["a"]]}},
        {"options": {"fields": ["no_such_field"]}},
        {"options": {"seed": "x", "max_pairs": "y"}},
        {"options": {"max_pairs": 1e9}},
        {"options": {"allow_nonfinite": [[]]}},
        {"options": {"metadata": [1]}},
        {"options": {"metadata": {"a": [1]}}},
        {"options": {"metadata": {"mosaic_collect": 1}}},
        {"options": {"metadata": {"num_steps": 99}}},
        {"layout": "circle"},
        {"layout": ["grid"]},
        {"layout": None},
        {"store_steps": "13"},
    ],
)
def test_provenance_that_makes_no_sense_is_refused_or_a_problem(
    store: str, npy: str, change: dict[str, Any]
) -> None:
    """A file may come from anywhere: no other errors than ours."""
    written(store)
    export_npy(store, npy, layout="compact")
    metadata = stores.load(npy)["metadata"]
    metadata["mosaic_collect"].update(change)
    _changed(npy, metadata=metadata)
    try:
        assert not verify_export(store, npy).ok
    except CorruptExportError as error:
        assert npy in str(error)  # noqa: PT017


def test_a_file_of_others_is_refused(store: str, npy: str) -> None:
    written(store)
    np.save(npy, {"actions": np.zeros((2, 2, 2), np.float32), "metadata": {"num_steps": 4}})
    with pytest.raises(CorruptExportError, match="does not say how it was exported"):
        verify_export(store, npy)
    assert scan_npy(npy).provenance is None


def test_errors_of_the_store(store: str, npy: str) -> None:
    written(store)
    export_npy(store, npy)
    with pytest.raises(StoreNotFoundError):
        verify_export(store + ".gone", npy)
    shard = os.path.join(store, "actions", "c.1.0.0")
    stores.flip(shard, 3)
    with pytest.raises(CorruptStoreError, match="actions, block 1"):
        verify_export(store, npy)
