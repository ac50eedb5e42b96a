"""The ecosystem's objects: lazy, named, growing with commits, honest about damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, verify_store
from mosaic_collect.errors import CorruptStoreError
from mosaic_collect.store.shard import LABEL_NBYTES
from tests.conformance.cases import Case
from tests.helpers import (
    CAMERA,
    SMALL,
    add,
    assert_holds,
    assert_same,
    expected,
    label_shards,
    open_writer,
    record,
)

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
xarray = pytest.importorskip("xarray", reason="xarray is not installed")

N, T = 5, 7


def test_dimensions_are_named_and_none_is_shared_by_different_widths(store: str) -> None:
    dataset = record(store, T, num_envs=N).to_xarray()
    assert dict(dataset.sizes) == {
        "step": T,
        "env": N,
        "observations_dim": 3,
        "actions_dim": 2,
        "action_mean_dim": 2,
        "action_sigma_dim": 2,
    }
    assert dataset["observations"].dims == ("step", "env", "observations_dim")
    assert dataset["valid_mask"].dims == ("step", "env")


@pytest.mark.parametrize("name", ["step", "env", "b_dim"])
def test_a_field_named_like_a_dimension_is_refused_or_readable(store: str, name: str) -> None:
    from mosaic_collect.errors import InputError

    try:
        schema = Schema((Field(name=name, dim=2), Field(name="b", dim=2)))
    except InputError:
        return
    dataset = record(store, T, num_envs=N, schema=schema)
    want = expected(range(T), N, schema)
    assert_same(dataset.to_zarr()[name][...], want[name])
    assert_same(dataset.to_xarray()[name].values, want[name])


@pytest.mark.parametrize("name", ["b_dim", "b_dim_0", "b"])
def test_a_field_named_like_an_axis_of_another(store: str, name: str) -> None:
    schema = Schema((Field(name="b", dim=(2, 3)), Field(name="x" if name == "b" else name, dim=2)))
    dataset = record(store, T, num_envs=N, schema=schema)
    for field, want in expected(range(T), N, schema).items():
        assert_same(dataset.to_zarr()[field][...], want)
        assert_same(dataset.to_xarray()[field].values, want)


def test_to_xarray_reads_nothing_until_asked(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(store, T, num_envs=N)
    opened: list[str] = []
    path_open = Path.open

    def noting(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self.name)
        return path_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", noting)
    dataset = TrajectoryDataset(store).to_xarray()
    assert not [n for n in opened if n.startswith("c.")]
    assert_same(dataset["actions"][2:4].values, expected(range(2, 4), N)["actions"])


def test_to_zarr_is_read_only(store: str) -> None:
    group = record(store, T, num_envs=N).to_zarr()
    with pytest.raises(ValueError, match=r"read.only"):
        group["actions"][0] = 1
    assert_holds(TrajectoryDataset(store), range(T))


def test_consolidated_metadata_and_each_arrays_own_are_the_same(store: str) -> None:
    state = record(store, T, num_envs=N).state
    root = json.loads(Path(store, "zarr.json").read_text())
    arrays = root["consolidated_metadata"]["metadata"]
    assert list(arrays) == [f.name for f in state.schema.stored]
    for name, document in arrays.items():
        own = json.loads(Path(store, name, "zarr.json").read_text())
        spare = own["attributes"].pop("mosaic_collect", None)
        assert own == document
        same = spare == root["attributes"]["mosaic_collect"]
        assert same if name == "trajectory_id" else spare is None


def test_zarr_sees_what_is_committed_and_nothing_else(store: str) -> None:
    with open_writer(store, N) as writer:
        add(writer, *range(4))
        writer.commit()
        add(writer, 4)
        early = TrajectoryDataset(store).to_zarr()
        for name, want in expected(range(4), N).items():
            assert_same(early[name][...], want, name)
        add(writer, *range(5, T))
        writer.commit()
        late = TrajectoryDataset(store).to_zarr()
        for name, want in expected(range(T), N).items():
            assert_same(late[name][...], want, name)
            # A group opened before keeps its length, though its last block was rewritten.
            assert_same(early[name][...], want[:4], name)


def test_debris_past_the_committed_steps_is_not_seen_by_zarr(store: str) -> None:
    record(store, 3, num_envs=N)
    Path(store, "actions", "c.1.0.0").write_bytes(b"debris")
    group = zarr.open_group(store, mode="r")
    assert_same(group["actions"][...], expected(range(3), N)["actions"])


@pytest.mark.parametrize("compressor", ["auto", "lz4", "zstd", "none"])
def test_a_flipped_byte_is_an_error_everywhere(store: str, compressor: str) -> None:
    record(store, 3, num_envs=N, compressor=compressor)
    path = Path(store, "actions", "c.0.0.0")
    good = path.read_bytes()
    start, end = LABEL_NBYTES, len(good)
    for at in {start, start + 5, end // 2, end - 25, end - 20, end - 9, end - 1}:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1 :])
        with pytest.raises(CorruptStoreError, match="checksum"):
            TrajectoryDataset(store).read("actions")
        with pytest.raises(ValueError, match=r"(?i)checksum"):
            zarr.open_group(store, mode="r")["actions"][...]
    path.write_bytes(good)
    assert_holds(TrajectoryDataset(store), range(3))


@pytest.mark.parametrize("compressor", ["auto", "lz4", "zstd", "none"])
@pytest.mark.parametrize("schema", [SMALL, CAMERA], ids=["small", "camera"])
def test_we_read_what_zarr_wrote_absent_chunks_included(
    store: str, compressor: str, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zarr-python leaves out chunks that are all fill value; this package never does.

    What it writes has no label, so these shards are given theirs.
    """
    case = Case(
        schema=schema, num_envs=N, steps=T, chunk_nbytes=24, block_steps=4, compressor=compressor
    )
    case.write(store, monkeypatch)
    dataset = TrajectoryDataset(store)
    group = zarr.open_group(store, mode="r+")
    rng = np.random.default_rng(1)
    want = {}
    for name, array in group.arrays():
        grid = dataset.state.grid(name)
        values = rng.integers(0, 2, array.shape).astype(array.dtype)
        # Half of the chunks of each shard empty, and not always the same ones.
        for env in range(N):
            for block in range(dataset.state.num_blocks):
                if (env // grid.chunk_envs + block) % 2:
                    steps = slice(block * grid.block_steps, (block + 1) * grid.block_steps)
                    values[steps, env] = grid.field.fill_value
        values[:: grid.block_steps, 0] = 1  # no shard is empty as a whole
        array[...] = want[name] = values
    label_shards(dataset)
    absent = 0
    for name, values in want.items():
        assert_same(TrajectoryDataset(store).read(name), values, name)
        absent += count_absent(dataset, name)
    assert absent > 0


def test_values_that_another_tool_wrote_are_refused(store: str) -> None:
    """Nobody knows whose they are."""
    record(store, T, num_envs=N)
    zarr.open_group(store, mode="r+")["actions"][0] = 1
    with pytest.raises(CorruptStoreError, match="actions, block 0, label: there is none"):
        TrajectoryDataset(store).read("actions")
    (problem,) = verify_store(store).problems
    assert "actions, block 0, label" in problem


def count_absent(dataset: TrajectoryDataset, name: str) -> int:
    found = 0
    for block in range(dataset.state.num_blocks):
        with dataset.view.parts[0].shard(name, block) as shard:
            chunks = range(dataset.view.grids[name].chunks)
            found += sum(shard.stored_nbytes(c) == 0 for c in chunks)
    return found


def test_the_stores_attribute_travels_with_zarr(store: str) -> None:
    group = record(store, T, num_envs=N, metadata={"task": "G1"}).to_zarr()
    own = group.attrs["mosaic_collect"]
    assert own["metadata"] == {"task": "G1"}
    assert own["committed_steps"] == T
    assert [f["name"] for f in own["fields"]] == list(SMALL.names)
