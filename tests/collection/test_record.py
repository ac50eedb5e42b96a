"""One collection with toys for parts, which overwrite what they hand out."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset, TrajectoryWriter  # noqa: E402
from mosaic_collect.collection import record as collection  # noqa: E402
from mosaic_collect.collection.groups import group_readers  # noqa: E402
from mosaic_collect.collection.protocols import EpisodeTracker  # noqa: E402
from mosaic_collect.errors import InputError, StoreExistsError, StoreMismatchError  # noqa: E402
from mosaic_collect.reading.terms import Term  # noqa: E402
from mosaic_collect.reading.verify import verify_store  # noqa: E402
from mosaic_collect.store.robot import Robot  # noqa: E402
from mosaic_collect.store.schema import (  # noqa: E402
    FAILED,
    GOES_ON,
    TRAJECTORY_END,
    TRUNCATED,
)
from tests import helpers  # noqa: E402
from tests.collection import toys  # noqa: E402

EPISODES = ((5, 2, 4), (3, 3), (6,), ())


class Recorded:
    """One collection in blocks of three steps, and all that was seen on the way."""

    def __init__(self, store: str, episodes=EPISODES, **options) -> None:
        falls, on_step = options.pop("falls", ()), options.pop("on_step", None)
        self.simulation = toys.ToySimulation(episodes, falls)
        self.policy, self.tracker = toys.ToyPolicy(), self.simulation.tracker
        if on_step is not None:
            options["on_step"] = lambda writer: on_step(self, writer)
        options |= toys.in_blocks(len(episodes))
        self.data = toys.collected(store, self.simulation, self.policy, **options)


def whole_episodes(episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mask, episode, frame and last-step flags that a collection of all episodes must hold."""
    steps = max(sum(lengths) for lengths in episodes)
    shape = (steps, len(episodes))
    mask, last = np.zeros(shape, bool), np.zeros(shape, bool)
    episode, frame = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for env, lengths in enumerate(episodes):
        at = 0
        for number, length in enumerate(lengths):
            rows = slice(at, at + length)
            mask[rows, env], episode[rows, env] = True, number
            frame[rows, env] = np.arange(length)
            at += length
            last[at - 1, env] = True
    return mask, episode, frame, last


def test_recorded_is_what_was_acted_on_bit_for_bit(store: str) -> None:
    made = Recorded(store)
    dataset = TrajectoryDataset(store)
    helpers.assert_same(dataset.read("observations"), torch.stack(made.policy.seen).numpy())
    for at, name in enumerate(("actions", "action_mean", "action_sigma")):
        want = torch.stack([said[at] for said in made.policy.said]).numpy()
        helpers.assert_same(dataset.read(name), want, name)


def test_the_student_saw_the_same_moment(store: str) -> None:
    """Its noise is its own, its moment is the teacher's."""
    Recorded(store)
    dataset = TrajectoryDataset(store)
    teacher, student = dataset.read("observations"), dataset.read("student_observations")
    np.testing.assert_array_equal(np.floor(teacher[:, :, :3]), np.floor(student))
    assert not np.array_equal(teacher[:, :, :3], student)


def test_observations_are_worked_out_once_a_step(store: str) -> None:
    made = Recorded(store)
    steps = made.data.num_steps
    assert made.simulation.resets == 1
    assert made.simulation.computed == steps + 1
    assert len(made.policy.seen) == steps, "one forward a step"
    assert len(made.tracker.settled) == steps


def test_masks_motions_and_frames(store: str) -> None:
    Recorded(store)
    dataset = TrajectoryDataset(store)
    mask, episode, frame, _ = whole_episodes(EPISODES)
    helpers.assert_same(dataset.read("valid_mask"), mask)
    for name, want in (("motion_id", episode), ("motion_frame", frame)):
        np.testing.assert_array_equal(dataset.read(name)[mask], want[mask])


def test_falls_are_told_from_ends_by_time(store: str) -> None:
    """Of rows that count only: who idles falls over and over, and nobody is told."""
    falls = ((0, 1), (1, 1))
    Recorded(store, falls=falls)
    dataset = TrajectoryDataset(store)
    _, episode, _, last = whole_episodes(EPISODES)
    want = np.where(last, TRUNCATED, GOES_ON).astype(np.uint8)
    for env, number in falls:
        want[last[:, env] & (episode[:, env] == number), env] = FAILED
    helpers.assert_same(dataset.read(TRAJECTORY_END), want)
    assert np.count_nonzero(want == FAILED) == 2
    assert dataset.num_ended == last.sum() == 6
    np.testing.assert_array_equal(np.diff(helpers.ids(dataset), axis=0) != 0, last[:-1])
    assert verify_store(store).ok


def test_it_stops_at_max_steps_those_of_earlier_runs_included(store: str) -> None:
    told: list[int] = []
    made = Recorded(store, max_steps=4, on_step=lambda made, writer: told.append(writer.num_steps))
    assert (made.data.num_steps, made.data.num_ended, len(made.policy.seen)) == (4, 1, 4)
    assert told == [1, 2, 3, 4], "on_step is called after each step"
    for steps in (2, 0):
        made = Recorded(store, max_steps=6, resume=True)
        assert (made.data.num_steps, len(made.policy.seen)) == (6, steps)


def test_all_idle_from_the_start(store: str) -> None:
    assert Recorded(store, episodes=((), ())).data.num_steps == 0


def test_the_policy_forgets_whoever_was_reset(store: str) -> None:
    """Idle environments, too: they are reset like any other."""
    made = Recorded(store)
    for told, (dones, _) in zip(made.policy.told, made.tracker.settled, strict=True):
        assert told == np.flatnonzero(dones).tolist()


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_an_interrupt_leaves_all_added_steps(store: str, steps: int) -> None:
    kept: list[Recorded] = []

    def stop(made: Recorded, writer: TrajectoryWriter) -> None:
        if writer.num_steps == steps:
            kept.append(made)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorded(store, on_step=stop)
    dataset = TrajectoryDataset(store)
    assert (dataset.num_steps, dataset.status) == (steps, "collecting")
    assert dataset.metadata["settled"] == steps, "the tracker's words are committed with them"
    helpers.assert_same(dataset.read("observations"), torch.stack(kept[0].policy.seen).numpy())

    Recorded(store, resume=True)
    dataset = TrajectoryDataset(store)
    assert dataset.status == "complete"
    assert dataset.num_steps == steps + 11
    ids = helpers.ids(dataset)
    assert not set(ids[:steps].ravel()) & set(ids[steps:].ravel())


@pytest.mark.parametrize("where", ["act", "step", "settle"])
def test_an_interrupt_anywhere_leaves_whole_steps(
    store: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    home = {"act": toys.ToyPolicy, "step": toys.ToySimulation, "settle": toys.ToyTracker}[where]
    real, calls = getattr(home, where), []

    def interrupted(*args):
        calls.append(where)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(home, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        Recorded(store)
    dataset = TrajectoryDataset(store)
    # Before the sixth forward five rows were added; a row is added before its step is taken.
    assert dataset.num_steps == (5 if where == "act" else 6)
    for name in dataset.fields:
        assert len(dataset.read(name)) == dataset.num_steps


def test_an_error_of_the_simulation_goes_through(store: str, monkeypatch) -> None:
    def broken(*args):
        raise RuntimeError("the simulator diverged")

    monkeypatch.setattr(toys.ToySimulation, "step", broken)
    with pytest.raises(RuntimeError, match="diverged"):
        Recorded(store)
    assert TrajectoryDataset(store).num_steps == 1


def test_without_motions_and_student_everyone_is_at_work(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.ToySimulation, "group_dims", toys.GROUPS)
    simulation = toys.ToySimulation(((2, 2), (4,)))
    simulation.tracker = EpisodeTracker(2, simulation.device)
    dataset = toys.collected(store, simulation, max_steps=4)
    assert dataset.schema == toys.Schema.mosaic(toys.OBS_DIM, toys.ACTION_DIM).with_ends()
    assert (dataset.num_valid, dataset.num_ended) == (8, 3)


def test_one_group_alone_is_recorded_without_a_copy() -> None:
    simulation = toys.ToySimulation(((1,),))
    (reader, _) = group_readers({"policy": 3}, simulation, simulation.reset())
    seen = torch.rand(3, 3)
    assert reader.before({"policy": seen})["observations"] is seen


def test_the_loop_never_asks_for_observations_again() -> None:
    """Of all calls in the loop, only ``reset`` and ``step`` give observations."""
    names = {
        node.func.attr
        for node in ast.walk(ast.parse(inspect.getsource(collection)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not {n for n in names if "observation" in n or "compute" in n}


SIGNALLED = """
import os, signal, sys
from mosaic_collect import termination_as_exit
from tests.collection import toys
from tests.collection.test_record import Recorded

signal.signal(signal.SIGTERM, signal.SIG_DFL)

class Buffer:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # Python code, between whose instructions the handler runs
            pass

class Simulation(toys.ToySimulation):
    steps = 0
    def step(self, actions):
        self.steps += 1
        if self.steps == 5:
            Buffer()
        return super().step(actions)

toys.ToySimulation = Simulation
with termination_as_exit():
    Recorded(sys.argv[1], ((60,), (60,)), max_steps=50)
"""


def test_a_signal_inside_a_finalizer_ends_the_collection(store: str) -> None:
    """Python loses what is raised there, and simulators give memory back by finalizers."""
    done = helpers.run_python(SIGNALLED, store)
    assert "SystemExit: 143" in done.stderr, "the exception was not lost"
    assert done.returncode == 143
    dataset = TrajectoryDataset(store)
    assert (dataset.num_steps, dataset.status) == (5, "collecting")


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
        collection.record(
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
