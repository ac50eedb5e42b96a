"""Fields with a default: given on every step or on none; the mask may come and go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import InputError
from tests.helpers import SMALL, assert_same, expected, mask, open_writer, rows

N = 4


def step(number: int, *without: str) -> dict[str, Any]:
    return {k: v for k, v in rows(number, N).items() if k not in without}


def test_missing_mean_is_the_action_and_missing_sigma_a_hundredth(store: str) -> None:
    with open_writer(store, N) as writer:
        for number in range(5):
            writer.add_step(**step(number, "action_mean", "action_sigma"))
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read("action_mean"), expected(range(5), N)["actions"])
    assert_same(dataset.read("action_sigma"), np.full((5, N, 2), 0.01, np.float32))


def test_each_optional_field_decides_for_itself(store: str) -> None:
    with open_writer(store, N) as writer:
        for number in range(5):
            writer.add_step(**step(number, "action_sigma"))
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read("action_mean"), expected(range(5), N)["action_mean"])
    assert (dataset.read("action_sigma") == np.float32(0.01)).all()
    assert dataset.state.given == {"action_mean": True, "action_sigma": False}


@pytest.mark.parametrize("field", ["action_mean", "action_sigma"])
@pytest.mark.parametrize("first", [True, False], ids=["given", "left out"])
@pytest.mark.parametrize("resumed", [True, False])
def test_a_later_difference_is_an_error(store: str, field: str, first: bool, resumed: bool) -> None:
    def without(given: bool) -> tuple[str, ...]:
        return () if given else (field,)

    writer = open_writer(store, N)
    writer.add_step(**step(0, *without(first)))
    if resumed:
        writer.close()
        writer = TrajectoryWriter(store, resume=True)
    words = "a value on every step.*got none" if first else "none, as the first step.*got a value"
    with writer:
        with pytest.raises(InputError, match=f"{field}: expected {words}"):
            writer.add_step(**step(1, *without(not first)))
        assert writer.num_steps == 1
        writer.add_step(**step(1, *without(first)))
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read("observations"), expected(range(2), N)["observations"])


def test_none_is_as_if_left_out(store: str) -> None:
    with open_writer(store, N) as writer:
        writer.add_step(**step(0, "action_sigma"), action_sigma=None)
        with pytest.raises(InputError, match="action_sigma"):
            writer.add_step(**step(1))
        writer.add_step(**step(1, "action_sigma"))


def test_a_store_of_zero_steps_has_not_decided(store: str) -> None:
    open_writer(store, N).close()
    with TrajectoryWriter(store, resume=True) as writer:
        writer.add_step(**step(0, "action_mean"))
    with TrajectoryWriter(store, resume=True) as writer, pytest.raises(InputError):
        writer.add_step(**step(1))


def test_defaults_of_extra_fields(store: str) -> None:
    extra = (
        Field(name="reward", default=-1.5),
        Field(name="phase", dim=2, dtype="int16", default=7),
        Field(name="seen", dim=3, default="observations"),
    )
    schema = Schema.mosaic(3, 2, extra=extra)
    with open_writer(store, N, schema) as writer:
        writer.add_step(**rows(0, N, SMALL))
        writer.add_step(**rows(1, N, SMALL))
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read("reward"), np.full((2, N), -1.5, np.float32))
    assert_same(dataset.read("phase"), np.full((2, N, 2), 7, np.int16))
    assert_same(dataset.read("seen"), expected(range(2), N)["observations"])


def test_the_mask_may_come_and_go(store: str) -> None:
    with open_writer(store, N) as writer:
        for number in range(7):
            given = {"valid_mask": mask(number, N)} if number % 3 == 1 else {}
            writer.add_step(**rows(number, N), **given)
    dataset = TrajectoryDataset(store)
    want = np.stack([mask(s, N) if s % 3 == 1 else np.ones(N, bool) for s in range(7)])
    assert_same(dataset.read("valid_mask"), want)
    assert dataset.num_valid == want.sum()
    assert dataset.state.has_mask


def test_the_mask_may_begin_after_a_resume(store: str) -> None:
    open_writer(store, N).close()
    for number, given in enumerate([{}, {"valid_mask": mask(1, N)}, {}]):
        with TrajectoryWriter(store, resume=True) as writer:
            writer.add_step(**rows(number, N), **given)
        assert TrajectoryDataset(store).state.has_mask is (number >= 1)
    want = np.stack([np.ones(N, bool), mask(1, N), np.ones(N, bool)])
    assert_same(TrajectoryDataset(store).read("valid_mask"), want)
