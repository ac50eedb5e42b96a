"""Fields of equal bytes share a file: safely, also where there are no links, and never else."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import WriteError
from mosaic_collect.look.inspect import summarize
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.store.files import PosixFiles
from tests.helpers import SMALL, open_writer, rows


class NoLinks(PosixFiles):
    """A file system without second names."""

    def __init__(self, code: int) -> None:
        self.code, self.asked = code, 0

    def link(self, source: str, target: str) -> None:
        self.asked += 1
        raise OSError(self.code, os.strerror(self.code), target)


def given(step: int, mean_too: bool = True, schema: Schema = SMALL) -> dict[str, np.ndarray]:
    made = rows(step, 4, schema)
    if mean_too:
        made["action_mean"] = made["actions"].copy()
    else:
        del made["action_mean"]
    return made


def shared(store: str, block: int, one: str = "actions", other: str = "action_mean") -> bool:
    return os.path.samefile(*(os.path.join(store, n, f"c.{block}.0.0") for n in (one, other)))


def check(store: str, steps: int) -> None:
    dataset = TrajectoryDataset(store)
    want = np.stack([rows(s, 4)["actions"] for s in range(steps)])
    for name in ("actions", "action_mean"):
        assert dataset.read(name).tobytes() == want.tobytes()
    report = verify_store(store)
    assert report.ok, report.problems


@pytest.mark.parametrize("mean_too", [True, False])
def test_equal_means_are_the_actions_file(store: str, mean_too: bool) -> None:
    """Also of a block that a resume goes on with."""
    for steps in (range(4), range(4, 7)):
        with open_writer(store, resume=steps.start > 0) as writer:
            for step in steps:
                writer.add_step(**given(step, mean_too))
    assert [shared(store, block) for block in range(3)] == [True, True, False]
    check(store, 7)
    sizes = {f.name: f.stored_nbytes for f in summarize(store).fields}
    partial = os.path.getsize(os.path.join(store, "action_mean", "c.2.0.0"))
    assert sizes["actions"] > partial
    assert sizes["action_mean"] == partial


def test_one_bit_apart_is_not_equal(store: str) -> None:
    with open_writer(store) as writer:
        for step in range(6):
            made = given(step)
            if step == 4:
                made["action_mean"][3, 1] = -0.0
                made["actions"][3, 1] = 0.0
            writer.add_step(**made)
    assert [shared(store, block) for block in range(2)] == [True, False]
    dataset = TrajectoryDataset(store)
    assert np.signbit(dataset.read("action_mean")[4, 3, 1])
    assert not np.signbit(dataset.read("actions")[4, 3, 1])


def test_a_partial_block_shares_nothing(store: str) -> None:
    """It is written again, perhaps with other means; copies of the store may have kept a link."""
    with open_writer(store) as writer:
        writer.add_step(**given(0))
        writer.commit()
        assert not shared(store, 0)
        made = given(1)
        made["action_mean"] += 1
        writer.add_step(**made)
        writer.commit()
        assert not shared(store, 0)
        dataset = TrajectoryDataset(store)
        apart = dataset.read("action_mean") - dataset.read("actions")
        assert apart[:, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_links_the_bytes_are_copied(
    store: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    files = NoLinks(code)
    monkeypatch.setattr("mosaic_collect.store.posix.PosixFiles", lambda: files)
    with open_writer(store) as writer:
        for step in range(7):
            writer.add_step(**given(step))
    assert files.asked == 2
    assert not any(shared(store, block) for block in range(3))
    check(store, 7)
    assert not [n for n in os.listdir(os.path.join(store, "action_mean")) if n.endswith(".tmp")]


def test_another_failure_of_a_link_is_told(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = NoLinks(errno.EIO)
    monkeypatch.setattr("mosaic_collect.store.posix.PosixFiles", lambda: files)
    writer = open_writer(store)
    for step in range(3):
        writer.add_step(**given(step))
    with pytest.raises(WriteError, match="Input/output error"):
        writer.commit()
    with pytest.raises(WriteError):
        writer.close()
    assert TrajectoryDataset(store).num_steps == 0


def test_nan_counts_are_those_of_the_file(store: str) -> None:
    with open_writer(store) as writer:
        made = given(0)
        made["actions"][2, 0] = made["action_mean"][2, 0] = np.nan
        writer.add_step(**made)
    assert TrajectoryDataset(store).state.nonfinite["action_mean"] == 1
    assert verify_store(store).ok


def test_the_twin_may_stand_before_its_source(store: str) -> None:
    schema = Schema((Field(name="copy", dim=2, default="source"), Field(name="source", dim=2)))
    with open_writer(store, schema=schema) as writer:
        for step in range(3):
            writer.add_step(source=rows(step, 4, schema)["source"])
    assert shared(store, 0, "copy", "source")
    dataset = TrajectoryDataset(store)
    assert dataset.read("copy").tobytes() == dataset.read("source").tobytes()
