"""Stores in which every way of encoding occurs are read alike by all readers.

The matrix of ``cases`` has chunks too small for anything but the compressor. Here one field is
noise (raw blocks), one a history (compressed), one is another's twin (a file of two names).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter
from mosaic_collect.recording.encoder import FieldEncoder
from tests.conformance.test_readers import READERS, Read
from tests.helpers import assert_same
from tests.recording.histories import history

ENVS, STEPS, BLOCK = 24, 150, 64
NOISY, TERMS, ACTIONS = 60, (40, 3, 17), 50
SCHEMA = Schema.mosaic(obs_dim=NOISY, action_dim=ACTIONS, student_obs_dim=5 * sum(TERMS))


def contents() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(7)
    resets = tuple((int(chance.integers(ENVS)), int(chance.integers(STEPS))) for _ in range(20))
    actions = chance.standard_normal((STEPS, ENVS, ACTIONS)).astype(np.float32)
    noisy = chance.standard_normal((STEPS, ENVS, NOISY)).astype(np.float32)
    student = history(ENVS, STEPS, TERMS, resets=resets).swapaxes(0, 1)
    sigma = np.full_like(actions, 0.1)
    mean = actions.copy()
    mean[BLOCK + 3, 5, 1] += 1  # the second block's are no twins
    names = ("observations", "student_observations", "actions", "action_mean", "action_sigma")
    return dict(zip(names, (noisy, student, actions, mean, sigma), strict=True))


@pytest.fixture(scope="module")
def ways() -> Counter[str]:
    return Counter()


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any, ways: Counter[str]) -> str:
    path = str(tmp_path_factory.mktemp("ways") / "s.zarr")
    inner = FieldEncoder.encode

    def counted(self: FieldEncoder, values: np.ndarray, whole: bool = True) -> Any:
        buffers = inner(self, values, whole)
        ways["raw" if len(buffers) > 1 else "compressed"] += 1
        return buffers

    data = contents()
    nbytes = SCHEMA.pair_nbytes * ENVS * (3 * BLOCK + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FieldEncoder, "encode", counted)
        with TrajectoryWriter(path, SCHEMA, ENVS, buffer_mb=nbytes / 1e6) as writer:
            for step in range(STEPS):
                writer.add_step(**{name: values[step] for name, values in data.items()})
                if step in (90, 100):
                    writer.commit()  # a block that is encoded again with more rows
            assert writer.block_steps == BLOCK
    return path


def test_all_ways_are_taken(store: str, ways: Counter[str]) -> None:
    assert set(ways) == {"raw", "compressed"}


def test_twins_share_a_file_in_the_blocks_in_which_they_are_equal(store: str) -> None:
    def same(block: int) -> bool:
        paths = [os.path.join(store, n, f"c.{block}.0.0") for n in ("actions", "action_mean")]
        return os.path.samefile(*paths)

    # The last one is not full, and may be written again.
    assert [same(block) for block in range(3)] == [True, False, False]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("field", SCHEMA.names)
def test_every_reader_sees_every_bit(store: str, read: Read, field: str) -> None:
    assert_same(read(store, field), np.ascontiguousarray(contents()[field]), field)
