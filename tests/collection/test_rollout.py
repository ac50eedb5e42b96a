"""The collection loop, with a simulation and a policy that overwrite what they hand out."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset, TrajectoryWriter  # noqa: E402
from mosaic_collect.collection import record  # noqa: E402
from mosaic_collect.collection.groups import group_readers  # noqa: E402
from mosaic_collect.collection.protocols import EpisodeTracker  # noqa: E402
from mosaic_collect.reading.verify import verify_store  # noqa: E402
from mosaic_collect.replay.check import replay_check  # noqa: E402
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
    made = Recorded(store, max_steps=4)
    assert (made.data.num_steps, made.data.num_ended, len(made.policy.seen)) == (4, 1, 4)
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


def test_the_trackers_words_are_committed_with_the_steps(store: str) -> None:
    def stop(made: Recorded, writer: TrajectoryWriter) -> None:
        if writer.num_steps == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorded(store, on_step=stop)
    assert TrajectoryDataset(store).metadata["settled"] == 7


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


def test_the_replay_of_a_collection(store: str) -> None:
    Recorded(store)
    report = replay_check(store, toys.ToyPolicy(), toys.GROUPS)
    assert report.ok
    assert report.rows == 23
    assert report.largest_mean == report.largest_sigma == 0.0


def test_the_loop_never_asks_for_observations_again() -> None:
    """Of all calls in the loop, only ``reset`` and ``step`` give observations."""
    names = {
        node.func.attr
        for node in ast.walk(ast.parse(inspect.getsource(record)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not {n for n in names if "observation" in n or "compute" in n}


SIGNALLED = """
import os, signal, sys
from mosaic_collect import termination_as_exit
from tests.collection import toys
from tests.collection.test_rollout import Recorded

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
