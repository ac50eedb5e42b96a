"""Makes the golden data of this folder: ``python -m tests.data.make`` in the checkout.

Run it once per released format version and commit what it makes; never again for that version.
``v2-COMPRESSOR.zarr`` are stores as they lie on disk, ``v2.npz`` what any later release must read
from each of them, kept apart from the code that wrote it.
"""

from __future__ import annotations

import json
import os
import shutil
from unittest.mock import patch

import numpy as np

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.store.metadata import FORMAT_VERSION

HERE = os.path.dirname(os.path.abspath(__file__))
COMPRESSORS = ("none", "lz4", "zstd")
NUM_ENVS, BLOCK_STEPS = 5, 3
METADATA = {"task": "Walk", "motions": ["a.npz", "b.npz"], "gain": 0.25, "name": "Zoë"}
SCHEMA = Schema(
    (
        Field(name="observations", dim=4),
        Field(name="targets", dim=4, default="observations"),
        Field(name="contacts", dtype="uint8"),
    )
)


def row(step: int) -> dict[str, np.ndarray]:
    """One step; targets are never given, so the observations stand in for them."""
    chance = np.random.default_rng(step)
    return {
        "observations": chance.standard_normal((NUM_ENVS, 4), np.float32),
        "contacts": chance.integers(0, 2, NUM_ENVS).astype(np.uint8),
    }


def add(writer: TrajectoryWriter, steps: int, masks: bool) -> None:
    """Steps with an end after every second, of the environment that counts that far."""
    for step in range(writer.num_steps, writer.num_steps + steps):
        mask = np.arange(NUM_ENVS) != step % NUM_ENVS
        writer.add_step(valid_mask=mask if masks else None, **row(step))
        if step % 2:
            writer.end_trajectories([step % NUM_ENVS])


def make(path: str, compressor: str) -> None:
    """Two runs, the first left open, the second complete; the last block half full."""
    shutil.rmtree(path, ignore_errors=True)
    buffer_mb = (3 * BLOCK_STEPS + 1) * SCHEMA.pair_nbytes * NUM_ENVS / 1e6
    options = {"buffer_mb": buffer_mb, "compressor": compressor, "metadata": METADATA}
    # Several chunks a shard, and padding.
    with patch("mosaic_collect.store.grid.CHUNK_NBYTES", 100):
        writer = TrajectoryWriter(path, SCHEMA, NUM_ENVS, **options)
        add(writer, 4, masks=False)
        writer.close(complete=False)
    with TrajectoryWriter(path, resume=True) as writer:
        add(writer, 4, masks=True)
        writer.end_trajectories(range(NUM_ENVS))


def main() -> None:
    """Make the stores, and write down what the last of them holds."""
    for compressor in COMPRESSORS:
        path = os.path.join(HERE, f"v{FORMAT_VERSION}-{compressor}.zarr")
        make(path, compressor)
    dataset = TrajectoryDataset(path)
    state = dataset.state
    facts = {
        "num_valid": dataset.num_valid,
        "num_trajectories": dataset.num_ended,
        "first_steps": [r.first_step for r in state.runs],
        "open_envs": [r.open_envs for r in state.runs],
        "metadata": METADATA,
    }
    arrays = {name: dataset.read(name) for name in dataset.fields}
    for step in range(dataset.num_steps):
        for name, value in row(step).items():
            assert (arrays[name][step] == value).all()
    target = os.path.join(HERE, f"v{FORMAT_VERSION}.npz")
    np.savez_compressed(target, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main()
