"""The replay check finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset  # noqa: E402
from mosaic_collect.collection.protocols import PolicyOutput  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from mosaic_collect.replay.check import replay_check  # noqa: E402
from tests import helpers  # noqa: E402
from tests.collection import toys  # noqa: E402

EPISODES = ((5, 2, 4), (3, 3), (6,))
Rows = dict[str, np.ndarray]


@pytest.fixture
def recorded(store: str) -> str:
    toys.collected(store, toys.ToySimulation(EPISODES), **toys.in_blocks(3))
    return store


def altered(store: str, alter: Callable[[Rows], None]) -> str:
    """A copy of the store with other values: ``alter`` changes arrays ``(T, N[, D])`` in place."""
    dataset = TrajectoryDataset(store)
    arrays = {name: dataset.read(name) for name in dataset.fields}
    alter(arrays)
    copy = store + ".altered"
    with helpers.open_writer(copy, dataset.num_envs, dataset.schema) as writer:
        for step in range(dataset.num_steps):
            rows = {name: arrays[name][step] for name in dataset.schema.names}
            writer.add_step(**rows, valid_mask=arrays["valid_mask"][step])
            if step + 1 < dataset.num_steps:
                ids = arrays["trajectory_id"]
                writer.end_trajectories(ids[step] != ids[step + 1])
    return copy


def test_unaltered_rows_are_as_recorded(recorded: str) -> None:
    told: list[int] = []
    report = replay_check(
        altered(recorded, lambda rows: None), toys.ToyPolicy(), toys.GROUPS, progress=told.append
    )
    assert report.ok
    assert report.rows == 23
    assert report.rows_off == 0
    assert report.first_off is None
    assert told == [1] * 11


def shift(rows: Rows) -> None:
    rows["observations"][1:, 1] = rows["observations"][:-1, 1]


def exchange(rows: Rows) -> None:
    rows["observations"][2, [0, 1]] = rows["observations"][2, [1, 0]]


def draw_again(rows: Rows) -> None:
    noise = np.random.default_rng(1).random(rows["observations"].shape, np.float32)
    rows["observations"][:] = np.floor(rows["observations"]) + noise


def another_mean(rows: Rows) -> None:
    rows["action_mean"][4, 2, 1] += 2e-5


def another_sigma(rows: Rows) -> None:
    rows["action_sigma"][4, 2, 1] += 2e-5


@pytest.mark.parametrize(
    ("alter", "rows_off", "first_off"),
    [
        (shift, 5, (1, 1)),  # one of the six valid rows of that environment is its own
        (exchange, 2, (2, 0)),
        (draw_again, 23, (0, 0)),
        (another_mean, 1, (4, 2)),
        (another_sigma, 1, (4, 2)),
    ],
)
def test_altered_rows_are_off(
    recorded: str, alter: Callable[[Rows], None], rows_off: int, first_off: tuple[int, int]
) -> None:
    copy = altered(recorded, alter)
    report = replay_check(copy, toys.ToyPolicy(), toys.GROUPS)
    assert not report.ok
    assert (report.rows_off, report.first_off) == (rows_off, first_off)
    tolerant = replay_check(copy, toys.ToyPolicy(), toys.GROUPS, tolerance=1e-4)
    assert tolerant.ok == (alter in (another_mean, another_sigma))


def test_another_checkpoint(recorded: str) -> None:
    assert not replay_check(recorded, toys.ToyPolicy(seed=1), toys.GROUPS).ok
    slightly, bare = toys.ToyPolicy(), toys.ToyPolicy()
    slightly.weight[0, 0] += 1e-3
    report = replay_check(recorded, slightly, toys.GROUPS)
    assert not report.ok
    assert report.largest_mean < 1e-2
    bare.mean, bare.std = torch.zeros_like(bare.mean), torch.ones_like(bare.std)
    assert replay_check(recorded, bare, toys.GROUPS).rows_off == 23, "a missing normaliser"


def test_groups_in_another_order(recorded: str) -> None:
    report = replay_check(recorded, toys.ToyPolicy(), dict(reversed(toys.GROUPS.items())))
    assert not report.ok


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_off_even_where_the_policy_says_so_too(
    recorded: str, value: float
) -> None:
    def alter(rows: Rows) -> None:
        rows["action_mean"][3, 0, 0] = value

    class Infinite(toys.ToyPolicy):
        def act(self, observations: Mapping[str, torch.Tensor]) -> PolicyOutput:
            output = super().act(observations)
            return PolicyOutput(output.actions, output.mean * value, output.sigma)

    copy = altered(recorded, alter)
    for policy in (toys.ToyPolicy(), Infinite()):
        report = replay_check(copy, policy, toys.GROUPS)
        assert report.first_off == ((0, 0) if isinstance(policy, Infinite) else (3, 0))
        assert report.largest_mean == report.relative_mean == np.inf


def test_relative_to_the_rows_largest_value(recorded: str) -> None:
    largest = np.abs(TrajectoryDataset(recorded).read("action_mean")[4, 2]).max()

    def alter(rows: Rows) -> None:
        rows["action_mean"][4, 2, np.abs(rows["action_mean"][4, 2]).argmin()] += 2e-3

    report = replay_check(altered(recorded, alter), toys.ToyPolicy(), toys.GROUPS)
    assert report.largest_mean == pytest.approx(2e-3, rel=1e-2)
    assert report.relative_mean == pytest.approx(2e-3 / largest, rel=1e-2)
    assert report.relative_sigma < 1e-6


def test_a_recorded_zero_has_no_relative_difference_or_an_infinite_one(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["action_sigma"][:] = 0.0

    class Sure(toys.ToyPolicy):
        def act(self, observations: Mapping[str, torch.Tensor]) -> PolicyOutput:
            output = super().act(observations)
            return PolicyOutput(output.actions, output.mean, torch.zeros_like(output.sigma))

    copy = altered(recorded, alter)
    assert replay_check(copy, Sure(), toys.GROUPS).relative_sigma == 0.0
    assert replay_check(copy, toys.ToyPolicy(), toys.GROUPS).relative_sigma == np.inf


def test_differences_over_the_steps(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["action_mean"][4, 2] += 0.5
        rows["action_sigma"][5, 0] += 0.25

    report = replay_check(altered(recorded, alter), toys.ToyPolicy(), toys.GROUPS)
    steps = report.steps
    assert len(steps) == 11
    assert steps["rows"].sum() == 23
    assert steps["first_off"].tolist() == [-1, -1, -1, -1, 2, 0, *[-1] * 5]
    assert np.flatnonzero(steps["rows_off"]).tolist() == [4, 5]
    assert steps["largest_mean"][4] == pytest.approx(0.5, rel=1e-5)
    assert steps["largest_sigma"][5] == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan"), float("inf")])
def test_a_tolerance_that_proves_nothing_is_refused(recorded: str, tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance: expected a finite number"):
        replay_check(recorded, toys.ToyPolicy(), toys.GROUPS, tolerance=tolerance)


def test_a_policy_of_other_actions_is_refused(recorded: str) -> None:
    class Wide(toys.ToyPolicy):
        def act(self, observations: Mapping[str, torch.Tensor]) -> PolicyOutput:
            wide = torch.zeros(3, toys.ACTION_DIM + 1)
            return PolicyOutput(wide, wide, wide)

    with pytest.raises(InputError, match="policy: expected actions"):
        replay_check(recorded, Wide(), toys.GROUPS)


def test_what_is_said(recorded: str) -> None:
    report = replay_check(recorded, toys.ToyPolicy(), toys.GROUPS)
    assert report.verdict == "ok, 23 valid rows"
    assert report.figures.startswith("largest difference of mean ")
    report = replay_check(recorded, toys.ToyPolicy(seed=1), toys.GROUPS)
    assert report.verdict == "23 OF 23 valid ROWS OFF, the first at step 0, env 0"


def test_invalid_rows_do_not_count(recorded: str) -> None:
    """Idle environments' rows are not looked at, whatever is in them."""

    def alter(rows: Rows) -> None:
        idle = ~rows["valid_mask"]
        assert idle.any()
        rows["observations"][idle] = np.nan
        rows["action_mean"][idle] = 1e9

    assert replay_check(altered(recorded, alter), toys.ToyPolicy(), toys.GROUPS).ok


def test_no_valid_row_proves_nothing(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["valid_mask"][:] = False

    report = replay_check(altered(recorded, alter), toys.ToyPolicy(), toys.GROUPS)
    assert np.isnan(report.steps["largest_mean"]).all()
    assert report.rows == report.largest_mean == 0
    assert not report.ok
    assert "NO VALID ROWS" in report.verdict


class Counting:
    """A recurrent policy: its mean is how many steps ago its memory was forgotten."""

    shapes = toys.ToyPolicy().shapes

    def __init__(self, num_envs: int) -> None:
        self.count = torch.zeros(num_envs)

    def act(self, observations: Mapping[str, torch.Tensor]) -> PolicyOutput:
        self.count += 1
        mean = self.count[:, None].expand(-1, toys.ACTION_DIM).clone()
        return PolicyOutput(mean, mean, torch.ones_like(mean))

    def reset(self, dones: torch.Tensor) -> None:
        self.count[dones] = 0


def test_a_recurrent_policy_is_told_where_trajectories_begin(store: str) -> None:
    toys.collected(store, toys.ToySimulation(EPISODES), Counting(3), **toys.in_blocks(3))
    assert replay_check(store, Counting(3), toys.GROUPS).ok
    late = Counting(3)
    late.reset = lambda dones: None
    assert not replay_check(store, late, toys.GROUPS).ok


@pytest.mark.parametrize(
    ("groups", "words"), [({"policy": 3}, "add up to 4"), ({"policy": 3, "extra": 2}, "add up")]
)
def test_groups_that_do_not_add_up(recorded: str, groups: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        replay_check(recorded, toys.ToyPolicy(), groups)


def test_a_store_without_what_is_needed(store: str) -> None:
    helpers.record(store, 2, schema=helpers.Schema((helpers.Field(name="observations", dim=4),)))
    with pytest.raises(InputError, match="action_mean, action_sigma"):
        replay_check(store, toys.ToyPolicy(), toys.GROUPS)
