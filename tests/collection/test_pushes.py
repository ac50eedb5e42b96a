"""Pushes while recording: what the row says is what the simulation is given, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.collection.acting import Acting  # noqa: E402
from mosaic_collect.collection.perturbed import CHANCE, Pushes  # noqa: E402
from mosaic_collect.errors import InputError, StoreMismatchError  # noqa: E402
from mosaic_collect.replay.check import replay_check  # noqa: E402
from tests import helpers  # noqa: E402
from tests.collection import toys  # noqa: E402
from tests.collection.test_origin import MJLAB  # noqa: E402
from tests.collection.test_record import recorded  # noqa: E402

EPISODES = ((200, 200), (400,), (130, 270), (90, 310))
PUSHING = Acting(push=0.4, seed=3)


class Pushable(toys.ToySimulation):
    """Notes its pushes, and at which of its steps they came."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pushes: list[torch.Tensor] = []
        self.steps: list[int] = []

    def push(self, velocity: torch.Tensor) -> None:
        self.pushes.append(velocity.clone())
        self.steps.append(self.computed)
        velocity.fill_(7.0)  # as careless as real ones may be


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Pushable]:
    """The simulations that ``recorded`` makes."""
    found: list[Pushable] = []

    def make(_: Any) -> Pushable:
        found.append(Pushable(EPISODES, falls=[(0, 0)]))
        return found[-1]

    monkeypatch.setattr("tests.collection.toys.ToySimulation", make)
    return found


def test_each_row_tells_the_push_behind_it(store: str, made: list[Pushable]) -> None:
    data = recorded(store, acting=PUSHING, max_steps=400)
    asked, *given = made[0].pushes
    assert not asked.any(), "asked whether it can push, by nothing"
    helpers.assert_same(data.read("push"), torch.stack(given).numpy())
    assert made[0].steps[1:] == list(range(1, 401)), "behind the row, before its step"
    assert np.argwhere(data.read("trajectory_end") == 2).tolist() == [[199, 0]]
    assert replay_check(store, toys.ToyPolicy(), toys.GROUPS).rows == data.num_valid


def test_actions_are_the_policys(store: str, made: list[Pushable]) -> None:
    data = recorded(store, acting=PUSHING)
    helpers.assert_same(data.read("actions"), data.read("action_mean"))
    both = replace(PUSHING, action_noise=0.1)
    data = recorded(f"{store}2", acting=both)
    assert {"push", "action_noise"} < set(data.fields)


def test_pushes_are_rare_and_each_trajectory_has_a_scale_of_its_own() -> None:
    many, steps = 2000, 100
    simulation = Pushable([[50] * 2] * many)
    pushed = Pushes(simulation, 0.4, seed=0)
    for _ in range(steps):
        pushed.step(torch.zeros(many, 2))
    pushes = torch.stack(simulation.pushes[1:])
    came = pushes.any(dim=2)
    assert abs(float(came.float().mean()) - CHANCE) < 0.002
    # Uniform to 0.4: mean square of a push is 0.4^2 / 3, its fourth moment 3 * 0.4^4 / 5.
    kicks = pushes[came].flatten()
    assert abs(float(kicks.square().mean()) / (0.16 / 3) - 1) < 0.05
    assert abs(float(kicks.pow(4).mean()) / (3 * 0.4**4 / 5) - 1) < 0.15
    halves = [pushes[part].square().sum((0, 2)) for part in (slice(50), slice(50, None))]
    # One scale a trajectory, another one behind its end.
    quarters = [pushes[part].square().sum((0, 2)) for part in (slice(25), slice(25, 50))]
    assert np.corrcoef(*quarters)[0, 1] > 0.1
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.1


def test_nothing_asked_is_nothing_changed(tmp_path: Path, made: list[Pushable]) -> None:
    data = recorded(str(tmp_path / "plain.zarr"), acting=Acting(seed=3))
    assert data.schema == toys.SCHEMA.with_ends()
    assert made[0].pushes == []


def test_each_run_and_process_draws_numbers_of_its_own(
    tmp_path: Path, made: list[Pushable]
) -> None:
    def run(name: str, origin: Any = MJLAB, **options: Any) -> np.ndarray:
        data = recorded(str(tmp_path / name), origin, acting=PUSHING, **options)
        return np.asarray(data.read("push"))

    first = run("a", max_steps=50)
    helpers.assert_same(run("b", max_steps=50), first)
    again = run("a", max_steps=100, resume=True)
    helpers.assert_same(again[:50], first)
    assert not np.array_equal(again[50:], first)
    other = run("c", replace(MJLAB, ranks=(1, 2)), max_steps=50)
    assert not np.array_equal(other, first)


def test_it_is_told_and_a_resume_must_ask_for_the_same(store: str, made: list[Pushable]) -> None:
    pushing = replace(MJLAB, acting=PUSHING.acting_metadata())
    data = recorded(store, pushing, acting=PUSHING, max_steps=5)
    assert data.metadata["acting"] == {"push": 0.4}
    with pytest.raises(StoreMismatchError, match=r"acting: expected \{'push': 0.4\}, got \{\}"):
        recorded(store, MJLAB, max_steps=7, resume=True)


def test_a_simulation_that_cannot_push_makes_no_store(store: str) -> None:
    with pytest.raises(InputError, match="push: expected a simulation that can push"):
        recorded(store, acting=PUSHING)
    assert not Path(store).exists()
