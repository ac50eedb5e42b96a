"""Root documents: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from mosaic_collect import Field, Schema
from mosaic_collect.errors import CorruptStoreError, StoreNotFoundError
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    Run,
    StoreState,
    array_metadata,
    checksum,
    root_document,
)
from mosaic_collect.store.parsing import MAX_DOCUMENT_NBYTES, parse_root

SCHEMA = Schema.mosaic(3, 2, extra=(Field(name="phase", dtype="int16", default=-4),))
RUNS = (
    Run(
        first_step=0,
        open_envs="/w8=",
        started="2026-01-01T00:00:00+00:00",
        versions={"a": "1"},
        key="00" * 8,
    ),
    Run(
        first_step=5,
        open_envs="AAA=",
        started="2026-01-02T00:00:00+00:00",
        versions={},
        key="0f" * 8,
    ),
)
STATE = StoreState(
    schema=SCHEMA,
    num_envs=12,
    block_steps=4,
    chunk_envs={f.name: 5 for f in SCHEMA.stored},
    compressor=Compressor("zstd", -3),
    committed_steps=9,
    status="complete",
    num_valid=77,
    num_trajectories=30,
    next_trajectory_id=54,
    has_mask=True,
    given={"action_mean": True, "action_sigma": False, "phase": True},
    nonfinite={"observations": 1, "actions": 0, "action_mean": 2, "action_sigma": 0},
    runs=RUNS,
    metadata={"π": [1, 2.5, None, {"deep": True}], "ids": 10**30},
    identity="a0" * 16,
    holder="0f" * 8,
)
DOCUMENT: dict[str, Any] = json.loads(root_document(STATE))
OWN: dict[str, Any] = DOCUMENT["attributes"][ATTRIBUTE]


def parse_own(own: dict[str, Any]) -> StoreState:
    return parse_root(with_own(own), "s")


def with_own(own: dict[str, Any]) -> bytes:
    """A root document with this attribute, its checksum made right."""
    own = {**own, "checksum": checksum(own)}
    return json.dumps({**DOCUMENT, "attributes": {ATTRIBUTE: own}}).encode()


def test_what_is_written_is_read_back() -> None:
    assert parse_root(root_document(STATE), "s") == STATE
    fresh = StoreState(
        schema=SCHEMA,
        num_envs=1,
        block_steps=1,
        chunk_envs={f.name: 1 for f in SCHEMA.stored},
        compressor=Compressor("none", 0),
        nonfinite=dict.fromkeys(STATE.nonfinite, 0),
        identity="b1" * 16,
        holder="1e" * 8,
    )
    assert parse_root(root_document(fresh), "s") == fresh


def test_properties() -> None:
    assert STATE.num_pairs == 9 * 12
    assert STATE.num_blocks == 3
    assert STATE.grid("actions").padded_envs == 15
    assert list(STATE.grids()) == [f.name for f in SCHEMA.stored]


def test_spans_are_the_runs_with_their_steps() -> None:
    assert STATE.spans() == ((RUNS[0], range(5)), (RUNS[1], range(5, 9)))
    again = replace(STATE, runs=(RUNS[0], RUNS[1], RUNS[1]))
    assert [steps for _, steps in again.spans()] == [range(5), range(5, 5), range(5, 9)]
    # A root document may list none: as one of no steps does, and an edited one.
    assert replace(STATE, runs=()).spans() == ()
    assert replace(STATE, runs=(), committed_steps=0).spans() == ()
    assert replace(STATE, runs=RUNS[1:]).spans() == ((RUNS[1], range(5, 9)),)


def test_array_metadata_is_zarrs() -> None:
    """Pinned in full: readers of other languages rely on each word."""
    assert array_metadata(STATE, "actions") == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [9, 12, 2],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 15, 2]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [4, 5, 2],
                    "codecs": [
                        {"name": "transpose", "configuration": {"order": [1, 0, 2]}},
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "zstd", "configuration": {"level": -3, "checksum": False}},
                        {"name": "crc32c"},
                    ],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
        "dimension_names": ["step", "env", "actions_dim"],
        "storage_transformers": [],
    }


def test_metadata_of_masks_and_ids() -> None:
    mask, ids = array_metadata(STATE, "valid_mask"), array_metadata(STATE, "trajectory_id")
    assert (mask["shape"], mask["fill_value"], mask["data_type"]) == ([9, 12], False, "bool")
    assert (ids["shape"], ids["fill_value"], ids["data_type"]) == ([9, 12], -1, "int64")
    assert mask["dimension_names"] == ["step", "env"]
    inner = mask["codecs"][0]["configuration"]["codecs"]
    assert inner[0] == {"name": "transpose", "configuration": {"order": [1, 0]}}
    assert inner[1] == {"name": "bytes"}


CHUNKS, NONFINITE, (FIRST, SECOND) = OWN["chunk_envs"], OWN["nonfinite"], OWN["runs"]
#: Bad values by the entry that they stand in.
BAD: dict[str, list[Any]] = {
    "num_envs": [0, 1 << 60, 12.0, True],
    "block_steps": [0, "4", 1 << 50],
    "committed_steps": [-1, 1 << 60],
    "chunk_envs": [
        *({}, [5, 5], {**CHUNKS, "actions": 0}),
        *({**CHUNKS, "actions": 13}, {**CHUNKS, "more": 1}),
    ],
    "compressor": [
        *("zstd", {"name": "zstd"}, {"name": "brotli", "level": 1}),
        *({"name": name, "level": 1} for name in (["zstd"], {})),
        {"name": "zstd", "level": 99},
    ],
    "status": ["done", None, ["complete"]],
    "num_valid": [-1, 9 * 12 + 1],
    "num_trajectories": [55],
    "next_trajectory_id": [-1, 1 << 63],
    "has_mask": [1],
    "given": [{"action_mean": True}, {"action_mean": 1, "action_sigma": 0, "phase": 1}],
    "nonfinite": [{}, {**NONFINITE, "actions": -1}, {**NONFINITE, "actions": 9 * 12 + 1}],
    "runs": [
        *({}, [3], [SECOND, FIRST], [{**FIRST, "first_step": 10}]),
        *([{**FIRST, "open_envs": bitmap}] for bitmap in ("AAAAAAAA", "!", 3)),
        *([{**FIRST, "versions": []}], [{**FIRST, "started": None}]),
    ],
    "metadata": [[], None],
    "fields": [
        *([], {}, [3], [{}], [{"name": "../up"}], [{"name": "valid_mask"}]),
        *([{"name": "a", "dim": 1 << 40}], [{"name": "a", "shape": 3}]),
        *([{"name": "a", "dtype": "object"}], [{"name": "a", "dtype": []}]),
        [{"name": "a", "default": {}}],
    ],
}


@pytest.mark.parametrize(
    ("key", "value"), [(k, v) for k in BAD for v in BAD[k]], ids=lambda v: f"{v!r:.30}"
)
def test_a_bad_entry_is_named(key: str, value: Any) -> None:
    with pytest.raises(CorruptStoreError, match=f"where/it/lies.*{key}"):
        parse_root(with_own({**OWN, key: value}), "where/it/lies")


@pytest.mark.parametrize("key", sorted({*OWN} - {"checksum", "format_version"}))
def test_a_missing_entry_is_named(key: str) -> None:
    own = {k: v for k, v in OWN.items() if k != key}
    with pytest.raises(CorruptStoreError, match=key):
        parse_own(own)


def test_all_problems_are_told_at_once() -> None:
    own = {**OWN, "num_envs": 0, "status": "done", "has_mask": 3, "block_steps": None}
    with pytest.raises(CorruptStoreError) as caught:
        parse_own(own)
    for part in ("num_envs", "status", "has_mask", "block_steps"):
        assert part in str(caught.value)


def test_a_chunk_too_large_for_any_codec_is_refused() -> None:
    own = copy.deepcopy(OWN)
    own["block_steps"] = 1 << 30
    with pytest.raises(CorruptStoreError, match="too large"):
        parse_own(own)


@pytest.mark.parametrize(
    "data",
    [
        *(b"3", b"[]", b"{}", b"[" * 900 + b"]" * 900),
        *(b'{"attributes": 3}', b'{"attributes": {"mosaic_collect": 3}}'),
    ],
    ids=lambda d: repr(d[:40]),
)
def test_json_of_others(data: bytes) -> None:
    with pytest.raises(StoreNotFoundError, match="no mosaic_collect store"):
        parse_root(data, "s")


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(root_document(STATE)) < MAX_DOCUMENT_NBYTES
    monkeypatch.setattr("mosaic_collect.store.parsing.MAX_DOCUMENT_NBYTES", 1000)
    with pytest.raises(CorruptStoreError, match="larger than"):
        parse_root(root_document(STATE), "s")


def test_a_cut_document_is_damaged_wherever_it_is_cut() -> None:
    data = root_document(STATE)
    for length in range(0, len(data), 61):
        with pytest.raises(CorruptStoreError):
            parse_root(data[:length], "s")


# -- fields of several axes ---------------------------------------------------------------------

CAMERA = Schema((Field(name="rgb", dim=(4, 6, 3), dtype="uint8"), Field(name="joints", dim=29)))
CAMERA_STATE = StoreState(
    schema=CAMERA,
    num_envs=5,
    block_steps=6,
    chunk_envs={"rgb": 1, "joints": 5, "valid_mask": 5, "trajectory_id": 5},
    chunk_steps={"rgb": 2},
    compressor=Compressor("zstd", -3),
    committed_steps=8,
    next_trajectory_id=5,
    nonfinite={"joints": 0},
    identity="a0" * 16,
    holder="0f" * 8,
)
CAMERA_OWN: dict[str, Any] = json.loads(root_document(CAMERA_STATE))["attributes"][ATTRIBUTE]


def test_axes_are_written_and_read_back() -> None:
    again = parse_root(root_document(CAMERA_STATE), "s")
    assert again == CAMERA_STATE
    assert root_document(again) == root_document(CAMERA_STATE)
    assert CAMERA_OWN["fields"][0]["dim"] == [4, 6, 3]
    assert CAMERA_OWN["chunk_steps"] == {"rgb": 2}


def test_what_is_not_cut_is_not_told() -> None:
    """So documents of flat fields are what they were before there were others."""
    state = replace(CAMERA_STATE, chunk_steps={})
    own = json.loads(root_document(state))["attributes"][ATTRIBUTE]
    assert "chunk_steps" not in own
    assert parse_own(own) == state
    assert state.grid("rgb").chunk_steps == 6


def test_array_metadata_of_axes_is_zarrs() -> None:
    document = array_metadata(CAMERA_STATE, "rgb")
    assert document["shape"] == [8, 5, 4, 6, 3]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [6, 5, 4, 6, 3]
    assert document["dimension_names"] == ["step", "env", "rgb_dim_0", "rgb_dim_1", "rgb_dim_2"]
    inner = document["codecs"][0]["configuration"]
    assert inner["chunk_shape"] == [2, 1, 4, 6, 3]
    assert inner["codecs"][0]["configuration"]["order"] == [1, 0, 2, 3, 4]
    assert array_metadata(CAMERA_STATE, "joints")["dimension_names"] == [
        "step",
        "env",
        "joints_dim",
    ]


BAD_CHUNK_STEPS = [
    *(None, [2], {"rgb": 0}, {"rgb": -2}, {"rgb": 7}, {"rgb": 2.0}, {"rgb": True}),
    {"rgb": 4},  # divides nothing
    {"rgb": 6},  # is not needed
    *({"joints": 2}, {"valid_mask": 2}, {"more": 2}),  # flat, and no field
]


@pytest.mark.parametrize("value", BAD_CHUNK_STEPS, ids=lambda v: f"{v!r:.30}")
def test_bad_chunk_steps_are_named(value: Any) -> None:
    with pytest.raises(CorruptStoreError, match="chunk_steps"):
        parse_own({**CAMERA_OWN, "chunk_steps": value})


HOSTILE = [
    *([], [0], [4, 0], [4, -6, 3], [[4, 6], 3], [4, "6"], [4, None], {"0": 4}, "4x6"),
    *([1 << 40, 1 << 40], [1 << 24, 2], [1 << 12] * 8, [1] * 9, [2] * 500_000),
]


@pytest.mark.parametrize("dim", HOSTILE, ids=lambda v: f"{v!r:.30}")
def test_hostile_axes_are_refused(dim: Any) -> None:
    own = copy.deepcopy(CAMERA_OWN)
    own["fields"][0]["dim"] = dim
    with pytest.raises(CorruptStoreError, match=r"dim|chunk_steps") as caught:
        parse_own(own)
    assert len(str(caught.value)) < 500


def test_a_shard_of_more_chunks_than_could_be_is_refused() -> None:
    """Its index would be looked for, and read."""
    with pytest.raises(CorruptStoreError, match="chunks a shard"):
        parse_own({**CAMERA_OWN, "block_steps": 1 << 30, "chunk_steps": {"rgb": 1}})
