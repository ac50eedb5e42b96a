"""Going on with a store: chains of writers, complete stores, debris, laggards, another ring."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from tests.helpers import (
    ALL_DTYPES,
    SMALL,
    add,
    assert_holds,
    assert_same,
    buffer_mb,
    contents,
    ids,
    mask,
    open_writer,
    record,
)

N = 4


@pytest.mark.parametrize("stride", range(1, 8))
def test_a_chain_of_writers_makes_one_store(store: str, stride: int) -> None:
    open_writer(store, block_steps=3).close()
    for first in range(0, 14, stride):
        with TrajectoryWriter(store, resume=True, commit_seconds=None) as writer:
            assert writer.num_steps == first
            add(writer, *range(first, first + stride), masks=True)
        dataset = TrajectoryDataset(store)
        assert_holds(dataset, range(first + stride))
        assert dataset.status == "complete"
        want = np.stack([mask(s, N) for s in range(first + stride)])
        assert_same(dataset.read("valid_mask"), want)
        assert dataset.num_valid == want.sum()
    runs = TrajectoryDataset(store).state.runs
    assert [r.first_step for r in runs] == [0, *range(0, 14, stride)]


def test_every_dtype_survives_a_resume_within_a_block(store: str) -> None:
    record(store, 2, schema=ALL_DTYPES, block_steps=3)
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, 2, 3)
    assert_holds(TrajectoryDataset(store), range(4))


@pytest.mark.usefixtures("small_chunks")
def test_a_resume_within_a_block_of_many_padded_chunks(store: str) -> None:
    record(store, 6, num_envs=7, block_steps=4)
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, *range(6, 11))
    assert_holds(TrajectoryDataset(store), range(11))


def test_a_resume_needs_no_more_than_the_path(store: str) -> None:
    schema = Schema((Field(name="a", dim=2, dtype="int16"), Field(name="b", default=1.5)))
    record(store, 4, num_envs=3, schema=schema, compressor="lz4", metadata={"k": "v"})
    with TrajectoryWriter(store, resume=True) as writer:
        assert (writer.schema, writer.num_envs, writer.block_steps) == (schema, 3, 3)
        assert writer.metadata == {"k": "v"}
        add(writer, 4)
    assert_holds(TrajectoryDataset(store), range(5))


def test_extending_a_complete_store_makes_it_collecting_until_the_end(store: str) -> None:
    record(store, 4)
    with TrajectoryWriter(store, resume=True) as writer:
        assert TrajectoryDataset(store).status == "complete"
        add(writer, 4)
        writer.commit()
        assert TrajectoryDataset(store).status == "collecting"
    assert TrajectoryDataset(store).status == "complete"


@pytest.mark.parametrize("before", ["complete", "collecting"])
def test_a_resume_that_adds_nothing_keeps_the_status_unless_it_completes(
    store: str, before: str
) -> None:
    writer = open_writer(store)
    add(writer, *range(4))
    writer.close(complete=before == "complete")
    TrajectoryWriter(store, resume=True).close(complete=False)
    assert TrajectoryDataset(store).status == before
    with pytest.raises(ZeroDivisionError), TrajectoryWriter(store, resume=True):
        raise ZeroDivisionError
    assert TrajectoryDataset(store).status == before
    TrajectoryWriter(store, resume=True).close()
    assert TrajectoryDataset(store).status == "complete"
    assert_holds(TrajectoryDataset(store), range(4))


@pytest.mark.parametrize("blocks", [1, 2, 30])
def test_another_buffer_mb_keeps_the_block_size(store: str, blocks: int) -> None:
    record(store, 7, block_steps=4)
    mb = blocks * 4 * SMALL.pair_nbytes * N / 1e6
    with TrajectoryWriter(store, resume=True, buffer_mb=mb) as writer:
        assert writer.block_steps == 4
        assert writer.ring_nbytes == min(blocks, 3) * 4 * SMALL.pair_nbytes * N
        add(writer, *range(7, 15))
    assert_holds(TrajectoryDataset(store), range(15))


def test_debris_of_a_killed_run_is_removed(store: str) -> None:
    record(store, 5, block_steps=3)
    clean = set(contents(store))
    debris = [
        ".zarr.json.tmp",
        "actions/.zarr.json.tmp",
        "actions/.c.1.0.0.tmp",
        "actions/c.2.0.0",
        "observations/c.17.0.0",
        "valid_mask/c.2.0",
    ]
    for name in debris:
        Path(store, name).write_bytes(b"rubbish")
    assert_holds(TrajectoryDataset(store), range(5))
    TrajectoryWriter(store, resume=True, commit_seconds=None).close()
    assert set(contents(store)) == clean
    assert_holds(TrajectoryDataset(store), range(5))


def test_what_is_not_ours_is_left_alone(store: str) -> None:
    record(store, 5)
    for name in ("notes.txt", "actions/plot.png", "actions/c.2.0.0.bak"):
        Path(store, name).write_text("mine")
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, 5)
    for name in ("notes.txt", "actions/plot.png", "actions/c.2.0.0.bak"):
        assert Path(store, name).read_text() == "mine"


def test_lagging_and_damaged_array_documents_are_mended(store: str) -> None:
    record(store, 5)
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, 5)
    want = {n: Path(store, n, "zarr.json").read_bytes() for n in SMALL.names}
    lagging = json.loads(want["actions"])
    lagging["shape"][0] = 3
    Path(store, "actions", "zarr.json").write_text(json.dumps(lagging))
    Path(store, "action_mean", "zarr.json").write_bytes(b"\xff" * 100)
    Path(store, "action_sigma", "zarr.json").write_text('{"zarr_format": 3, "shape": [1e9, 2, 2]}')
    os.unlink(os.path.join(store, "observations", "zarr.json"))
    assert_holds(TrajectoryDataset(store), range(6))
    TrajectoryWriter(store, resume=True).close()
    for name, document in want.items():
        assert json.loads(Path(store, name, "zarr.json").read_bytes()) == json.loads(document)


def test_folders_missing_from_a_store_of_zero_steps_are_made(store: str) -> None:
    """A kill right after the first root document."""
    open_writer(store).close(complete=False)
    for name in ("actions", "trajectory_id"):
        shutil.rmtree(os.path.join(store, name))
    with TrajectoryWriter(store, resume=True) as writer:
        add(writer, 0)
    assert_holds(TrajectoryDataset(store), range(1))


def test_a_resume_changes_nothing_before_the_first_commit(store: str) -> None:
    record(store, 4)
    before = TrajectoryDataset(store).state
    writer = TrajectoryWriter(store, resume=True, commit_seconds=None)
    add(writer, 4)
    assert TrajectoryDataset(store).state == before
    assert (ids(TrajectoryDataset(store)) == range(N)).all()
    writer.close()


def test_buffer_mb_of_the_helpers_is_exact(store: str) -> None:
    """All tests above rely on blocks of three steps."""
    for steps in (1, 2, 3, 8):
        with open_writer(f"{store}.{steps}", buffer_mb=buffer_mb(steps, N)) as writer:
            assert writer.block_steps == steps


def test_auto_begins_a_store_and_goes_on_with_it(store: str) -> None:
    """What a job wants that is preempted and queued again."""
    for first in (0, 3, 6):
        with open_writer(store, resume="auto") as writer:
            assert writer.num_steps == first
            add(writer, *range(first, first + 3))
    assert_holds(TrajectoryDataset(store), range(9))
