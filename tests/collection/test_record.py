"""One collection from its parts to a complete store, with toys for parts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset, TrajectoryWriter  # noqa: E402
from mosaic_collect.collection.record import record  # noqa: E402
from mosaic_collect.errors import InputError, StoreExistsError, StoreMismatchError  # noqa: E402
from mosaic_collect.reading.terms import Term  # noqa: E402
from mosaic_collect.store.robot import Robot  # noqa: E402
from mosaic_collect.store.schema import FAILED, TRAJECTORY_END, TRUNCATED  # noqa: E402
from tests.collection import toys  # noqa: E402

EPISODES = ((5, 2, 4), (3, 3), (6,), ())


def recorded(
    store: str, origin: Any = toys.ORIGIN, policy: Any = None, **options: Any
) -> TrajectoryDataset:
    """Record the toys; gives the store."""
    return toys.collected(store, toys.ToySimulation(EPISODES), policy, origin, **options)


def test_a_new_store(store: str) -> None:
    data = recorded(store)
    assert (data.num_steps, data.num_valid, data.status) == (11, 23, "complete")
    assert data.schema == toys.SCHEMA
    told = data.metadata
    assert told == {**toys.ORIGIN, "groups": toys.GROUPS, "settled": 11}


def test_a_store_that_is_there_is_left_alone(store: str) -> None:
    recorded(store, max_steps=2)
    with pytest.raises(StoreExistsError):
        recorded(store)
    assert TrajectoryDataset(store).num_steps == 2


def end_another(store: str) -> None:
    """A commit may hold ends and what is told of them alone: the number of steps stays."""
    with TrajectoryWriter(store, resume=True) as writer:
        writer.end_trajectories([0], metadata={"settled": 99})


@pytest.mark.parametrize(
    ("overtake", "words"),
    [
        (lambda store: recorded(store, max_steps=5, resume=True), r"the 2 steps .*, got 5"),
        (end_another, "the settled .*"),
    ],
    ids=["steps", "ends"],
)
def test_a_run_that_another_one_has_overtaken_is_refused(
    store: str, overtake: Callable[[str], object], words: str
) -> None:
    """Both looked at the store before either had it: the slower one's ledger is an old one."""
    recorded(store, max_steps=2)
    known = TrajectoryDataset(store)
    overtake(store)
    told, simulation = TrajectoryDataset(store), toys.ToySimulation(EPISODES)
    with pytest.raises(StoreMismatchError, match=f"expected {words}: another run"):
        record(
            *(
                simulation,
                toys.ToyPolicy(),
                store,
                toys.ORIGIN,
                9,
                known,
            ),
            buffer_mb=1,
        )
    data = TrajectoryDataset(store)
    assert (data.num_steps, data.status) == (told.num_steps, told.status)
    assert data.metadata == told.metadata != known.metadata


EXTRAS = ("reward", "terminated", "truncated", "final_observations", "extra")


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> toys.ToyPolicy:
    """A policy that reads one group of two, in a simulation with observations before resets."""
    monkeypatch.setattr(toys.ToySimulation, "has_final", True)
    policy = toys.ToyPolicy()
    policy.shapes = {"policy": (3,)}
    return policy


def test_more_fields_belong_to_the_row_whose_action_caused_them(
    store: str, extended: toys.ToyPolicy
) -> None:
    """Numbers of environment, episode and frame stand in observations, rewards and last ones."""
    recorded(store, policy=extended, extra_names=EXTRAS, max_steps=4)
    data = recorded(store, policy=extended, extra_names=EXTRAS, resume=True)
    place = np.floor(data["observations"][..., 0])
    np.testing.assert_array_equal(data["reward"][...], place)
    np.testing.assert_array_equal(np.floor(data["observations_extra"][..., 0]), place)
    valid, ends = data["valid_mask"][...], data[TRAJECTORY_END][...]
    for name, code in (("truncated", TRUNCATED), ("terminated", FAILED)):
        np.testing.assert_array_equal(data[name][...][valid], ends[valid] == code)
    last, ended = data["final_observations"][...], data["truncated"][...] | data["terminated"][...]
    np.testing.assert_array_equal(last[ended][:, 0], place[ended] + 1)
    assert not last[~ended].any()
    assert data.schema["final_student_observations"].dim == toys.STUDENT_DIM
    with pytest.raises(StoreMismatchError, match="reward: expected"):
        recorded(store, policy=extended, max_steps=99, resume=True)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["reward", "rewards"], "expected names among extra, reward, .*, got rewards; policy, stu"),
        (["policy"], "got policy; policy, student: recorded in any case"),
        (["states"], "record: expected names among .*, got states"),
    ],
)
def test_an_unknown_name_of_a_field_is_refused_before_anything_is_written(
    store: str, extended: toys.ToyPolicy, names: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        recorded(store, policy=extended, extra_names=names)
    assert not os.path.exists(store)


def test_a_resume_with_another_robot_is_refused_or_allowed(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs is named; units are those of the fields and terms that are recorded."""
    monkeypatch.setattr(toys.ToySimulation, "robot", Robot(name="toy", control_dt=0.02))
    terms = {"policy": [Term("joint_vel", 3, unit="rad/s")], "extra": [Term("joint_vel", 1)]}
    monkeypatch.setattr(toys.ToySimulation, "group_terms", terms | {"student": [Term("x", 3)]})
    told = recorded(store, max_steps=2).robot
    assert told == Robot(name="toy", control_dt=0.02, units={"policy.joint_vel": "rad/s"})
    recorded(store, max_steps=3, resume=True)
    monkeypatch.setattr(toys.ToySimulation, "robot", Robot(name="toy", control_dt=0.01))
    words = r"robot: control_dt: expected 0.02, got 0.01; --allow-changed robot"
    with pytest.raises(StoreMismatchError, match=words):
        recorded(store, max_steps=4, resume=True)
    data = recorded(store, max_steps=4, resume=True, allow_changed=["robot"])
    assert (data.num_steps, data.robot.control_dt) == (4, 0.01)


def test_what_observations_are_made_of(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = {
        "policy": [Term("pos", 2), Term("vel", 1)],
        "extra": [Term("pos", 1)],
        "student": [Term("pos", 1, 3)],
    }
    monkeypatch.setattr(toys.ToySimulation, "group_terms", terms, raising=False)
    data = recorded(store)
    names = {field: [t.label for t in found] for field, found in data.terms.items()}
    assert names == {
        "observations": ["policy.pos (2)", "vel (1)", "extra.pos (1)"],
        "student_observations": ["pos (1 x 3 frames)"],
    }


def test_terms_of_some_groups_only(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = {"policy": [Term("pos", 3)], "student": [Term("pos", 3)]}
    monkeypatch.setattr(toys.ToySimulation, "group_terms", terms, raising=False)
    assert set(recorded(store).terms) == {"student_observations"}
