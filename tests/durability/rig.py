"""A tiny store whose content is known from its step numbers alone, and its check."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.reading.verify import trajectory_problems
from mosaic_collect.store.files import is_temp_name
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.store.schema import (
    ENDED,
    FAILED,
    GOES_ON,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    VALID_MASK,
)
from mosaic_collect.store.view import read_document
from tests.helpers import assert_holds, assert_same, buffer_mb, mask, rows

NUM_ENVS = 2
BLOCK_STEPS = 2
#: The least number of fields, so that runs are short and many states can be looked at.
TINY = Schema((Field(name="x", dim=2),))
TINY_ENDS = TINY.with_ends()


def open_tiny(path: Any, schema: Schema | None = TINY, **options: Any) -> TrajectoryWriter:
    """A writer with one compressing thread and blocks of two steps."""
    settings = {"commit_seconds": None, "threads": 1, "compressor": "none", **options}
    settings.setdefault("buffer_mb", buffer_mb(BLOCK_STEPS, NUM_ENVS, schema or TINY_ENDS))
    return TrajectoryWriter(path, schema, NUM_ENVS, **settings)


def add_tiny(writer: TrajectoryWriter, steps: int = 1) -> None:
    """Go on by some steps, masks included."""
    for step in range(writer.num_steps, writer.num_steps + steps):
        given = rows(step, writer.num_envs, writer.schema)
        writer.add_step(valid_mask=mask(step, writer.num_envs), **given)


def check(path: Any) -> int:
    """Everything that must be true of a tiny store, whatever happened to its writers.

    Returns:
        Its committed steps.
    """
    dataset = TrajectoryDataset(path, threads=1)
    steps = dataset.num_steps
    if not dataset.fields:
        return 0
    check_rows(dataset)
    check_ids(dataset.read(TRAJECTORY_ID), dataset.state.next_trajectory_id)
    if dataset.schema.has_ends:
        check_ends(dataset)
    return steps


def check_rows(dataset: TrajectoryDataset) -> None:
    """Rows and masks are those of their steps."""
    assert_holds(dataset, range(dataset.num_steps))
    masks = [mask(s, dataset.num_envs) for s in range(dataset.num_steps)]
    want = np.array(masks, bool).reshape(dataset.num_steps, dataset.num_envs)
    assert_same(dataset.read(VALID_MASK), want, VALID_MASK)
    assert dataset.num_valid == np.count_nonzero(want)


def how(step: int) -> int:
    """How trajectories of a tiny store end at that step."""
    return FAILED if step % 2 else ENDED


def check_ends(dataset: TrajectoryDataset) -> None:
    """Ends stand at last rows, as many as are committed, and are those of their steps."""
    assert trajectory_problems(dataset.view.parts[0]) == []
    for step, ends in enumerate(dataset.read(TRAJECTORY_END)):
        assert set(ends.tolist()) <= {GOES_ON, how(step)}


def check_ids(ids: np.ndarray, next_id: int) -> None:
    """Each id belongs to one environment and to consecutive steps."""
    seen: set[int] = set()
    for column in ids.T:
        starts = np.flatnonzero(np.diff(column, prepend=-2))
        own = column[starts].tolist()
        assert len(set(own)) == len(own), f"an id comes back: {own}"
        assert not seen & set(own), f"an id of two environments: {own}"
        seen |= set(own)
    assert all(0 <= i < next_id for i in seen), f"ids {seen}, the next would be {next_id}"


def check_documents(path: Any) -> None:
    """Arrays' own documents may lag behind the root document, but never lead."""
    blobs = blobs_at(path)
    root = json.loads(read_document(blobs) or b"{}")
    for name, array in root["consolidated_metadata"]["metadata"].items():
        own = read_document(blobs, name)
        assert own is None or json.loads(own)["shape"][0] <= array["shape"][0], f"{name} leads"


def check_resume(path: Any, steps: int) -> None:
    """A writer goes on after these steps and leaves a store without debris."""
    resume = blobs_at(path).is_taken()
    born = resume and TrajectoryDataset(path).fields
    with open_tiny(path, None if born else TINY, resume=resume) as writer:
        assert writer.num_steps == steps, f"resumed at {writer.num_steps}, read {steps}"
        add_tiny(writer, 3)
    assert check(path) == steps + 3
    assert TrajectoryDataset(path).status == "complete"
    check_documents(path)
    if not blobs_at(path).guards:
        check_no_debris(path)


def check_no_debris(path: str) -> None:
    """No temp files, and no shard that holds no committed step."""
    blocks = TrajectoryDataset(path).state.num_blocks
    names = [n for _, _, found in os.walk(path) for n in found]
    assert not [n for n in names if is_temp_name(n)]
    assert not [n for n in names if n.startswith("c.") and int(n.split(".")[1]) >= blocks]
