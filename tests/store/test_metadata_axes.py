"""Root documents of fields of several axes: what is written is read back, and nothing else."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from mosaic_collect import Field, Schema
from mosaic_collect.errors import CorruptStoreError, StoreError
from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    StoreState,
    array_metadata,
    checksum,
    root_document,
)
from mosaic_collect.store.parsing import parse_root
from tests.store.test_metadata import JSON

SCHEMA = Schema((Field(name="rgb", dim=(4, 6, 3), dtype="uint8"), Field(name="joints", dim=29)))
STATE = StoreState(
    schema=SCHEMA,
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
OWN: dict[str, Any] = json.loads(root_document(STATE))["attributes"][ATTRIBUTE]


def parsed(own: dict[str, Any]) -> StoreState:
    own = {**own, "checksum": checksum(own)}
    return parse_root(json.dumps({"attributes": {ATTRIBUTE: own}}).encode(), "s")


def test_what_is_written_is_read_back() -> None:
    assert parsed(OWN) == STATE
    assert root_document(parsed(OWN)) == root_document(STATE)
    assert OWN["fields"][0]["dim"] == [4, 6, 3]
    assert OWN["chunk_steps"] == {"rgb": 2}


def test_what_is_not_cut_is_not_told() -> None:
    """So documents of flat fields are what they were before there were others."""
    state = replace(STATE, chunk_steps={})
    own = json.loads(root_document(state))["attributes"][ATTRIBUTE]
    assert "chunk_steps" not in own
    assert parsed(own) == state
    assert state.grid("rgb").chunk_steps == 6


def test_array_metadata_is_zarrs() -> None:
    document = array_metadata(STATE, "rgb")
    assert document["shape"] == [8, 5, 4, 6, 3]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [6, 5, 4, 6, 3]
    assert document["dimension_names"] == ["step", "env", "rgb_dim_0", "rgb_dim_1", "rgb_dim_2"]
    inner = document["codecs"][0]["configuration"]
    assert inner["chunk_shape"] == [2, 1, 4, 6, 3]
    assert inner["codecs"][0]["configuration"]["order"] == [1, 0, 2, 3, 4]
    assert array_metadata(STATE, "joints")["dimension_names"] == ["step", "env", "joints_dim"]


BAD = [
    ("chunk_steps", None),
    ("chunk_steps", [2]),
    ("chunk_steps", {"rgb": 0}),
    ("chunk_steps", {"rgb": -2}),
    ("chunk_steps", {"rgb": 4}),  # divides nothing
    ("chunk_steps", {"rgb": 6}),  # is not needed
    ("chunk_steps", {"rgb": 7}),
    ("chunk_steps", {"rgb": 2.0}),
    ("chunk_steps", {"rgb": True}),
    ("chunk_steps", {"joints": 2}),  # flat
    ("chunk_steps", {"valid_mask": 2}),
    ("chunk_steps", {"more": 2}),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=lambda v: f"{v!r:.30}")
def test_a_bad_entry_is_named(key: str, value: Any) -> None:
    with pytest.raises(CorruptStoreError, match=key):
        parsed({**OWN, key: value})


HOSTILE = [
    [],
    [0],
    [4, 0],
    [4, -6, 3],
    [1 << 40, 1 << 40],
    [1 << 24, 2],
    [1 << 12] * 8,
    [1] * 9,
    [2] * 500_000,
    [[4, 6], 3],
    [4, "6"],
    [4, None],
    {"0": 4},
    "4x6",
]


@pytest.mark.parametrize("dim", HOSTILE, ids=lambda v: f"{v!r:.30}")
def test_hostile_axes_are_refused(dim: Any) -> None:
    own = copy.deepcopy(OWN)
    own["fields"][0]["dim"] = dim
    with pytest.raises(CorruptStoreError, match=r"dim|chunk_steps") as caught:
        parsed(own)
    assert len(str(caught.value)) < 500


def test_a_shard_of_more_chunks_than_could_be_is_refused() -> None:
    """Its index would be looked for, and read."""
    with pytest.raises(CorruptStoreError, match="chunks a shard"):
        parsed({**OWN, "block_steps": 1 << 30, "chunk_steps": {"rgb": 1}})


@given(value=JSON)
def test_any_value_as_chunk_steps_is_read_or_refused(value: Any) -> None:
    try:
        state = parsed({**OWN, "chunk_steps": value})
    except StoreError:
        return
    assert root_document(state)


@given(place=st.integers(0, 2), value=JSON | st.integers(-3, 1 << 26))
def test_any_value_in_any_axis_is_read_or_refused(place: int, value: Any) -> None:
    own = copy.deepcopy(OWN)
    own["fields"][0]["dim"][place] = value
    try:
        state = parsed(own)
    except StoreError:
        return
    assert state.grid("rgb").chunk_nbytes <= 1 << 30
