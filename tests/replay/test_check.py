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
from mosaic_collect.replay.report import ReplayReport  # noqa: E402
from tests import helpers  # noqa: E402
from tests.collection import toys  # noqa: E402
from tests.helpers import altered  # noqa: E402

EPISODES = ((5, 2, 4), (3, 3), (6,))
Rows = dict[str, np.ndarray]


@pytest.fixture
def recorded(store: str) -> str:
    toys.collected(store, toys.ToySimulation(EPISODES), **toys.in_blocks(3))
    return store


def check(
    store: str, policy: Any = None, groups: Any = toys.GROUPS, **options: Any
) -> ReplayReport:
    return replay_check(store, policy or toys.ToyPolicy(), groups, **options)


def changed(change: Callable[[PolicyOutput], PolicyOutput]) -> toys.ToyPolicy:
    """A policy that answers otherwise."""

    class Changed(toys.ToyPolicy):
        def act(self, observations: Mapping[str, torch.Tensor]) -> PolicyOutput:
            return change(super().act(observations))

    return Changed()


def test_unaltered_rows_are_as_recorded(recorded: str) -> None:
    told: list[int] = []
    report = check(altered(recorded, lambda rows: None), progress=told.append)
    assert (report.ok, report.rows, report.rows_off, report.first_off) == (True, 23, 0, None)
    assert told == [1] * 11
    assert report.verdict == "ok, 23 valid rows"
    assert report.figures.startswith("largest difference of mean ")


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
    report = check(copy)
    assert (report.ok, report.rows_off, report.first_off) == (False, rows_off, first_off)
    step, env = first_off
    words = f"{rows_off} OF 23 valid ROWS OFF, the first at step {step}, env {env}"
    assert report.verdict == words
    assert check(copy, tolerance=1e-4).ok == (alter in (another_mean, another_sigma))


def test_another_checkpoint_or_another_order_of_groups(recorded: str) -> None:
    assert not check(recorded, toys.ToyPolicy(seed=1)).ok
    reversed_groups = dict(reversed(toys.GROUPS.items()))
    assert not check(recorded, groups=reversed_groups).ok, "groups in another order"
    slightly, bare = toys.ToyPolicy(), toys.ToyPolicy()
    slightly.weight[0, 0] += 1e-3
    report = check(recorded, slightly)
    assert not report.ok
    assert report.largest_mean < 1e-2
    bare.mean, bare.std = torch.zeros_like(bare.mean), torch.ones_like(bare.std)
    assert check(recorded, bare).rows_off == 23, "a missing normaliser"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_off_even_where_the_policy_says_so_too(
    recorded: str, value: float
) -> None:
    def alter(rows: Rows) -> None:
        rows["action_mean"][3, 0, 0] = value

    infinite = changed(lambda o: PolicyOutput(o.actions, o.mean * value, o.sigma))
    copy = altered(recorded, alter)
    for policy, first_off in ((None, (3, 0)), (infinite, (0, 0))):
        report = check(copy, policy)
        assert report.first_off == first_off
        assert report.largest_mean == report.relative_mean == np.inf


def test_relative_to_the_rows_largest_value(recorded: str) -> None:
    largest = np.abs(TrajectoryDataset(recorded).read("action_mean")[4, 2]).max()

    def alter(rows: Rows) -> None:
        rows["action_mean"][4, 2, np.abs(rows["action_mean"][4, 2]).argmin()] += 2e-3

    report = check(altered(recorded, alter))
    assert report.largest_mean == pytest.approx(2e-3, rel=1e-2)
    assert report.relative_mean == pytest.approx(2e-3 / largest, rel=1e-2)
    assert report.relative_sigma < 1e-6


def test_a_recorded_zero_has_no_relative_difference_or_an_infinite_one(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["action_sigma"][:] = 0.0

    sure = changed(lambda o: PolicyOutput(o.actions, o.mean, torch.zeros_like(o.sigma)))
    copy = altered(recorded, alter)
    assert check(copy, sure).relative_sigma == 0.0
    assert check(copy).relative_sigma == np.inf


def test_differences_over_the_steps(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["action_mean"][4, 2] += 0.5
        rows["action_sigma"][5, 0] += 0.25

    report = check(altered(recorded, alter))
    steps = report.steps
    assert len(steps) == 11
    assert steps["rows"].sum() == 23
    assert steps["first_off"].tolist() == [-1, -1, -1, -1, 2, 0, *[-1] * 5]
    assert np.flatnonzero(steps["rows_off"]).tolist() == [4, 5]
    assert steps["largest_mean"][4] == pytest.approx(0.5, rel=1e-5)
    assert steps["largest_sigma"][5] == pytest.approx(0.25, rel=1e-5)


WIDE = torch.zeros(3, toys.ACTION_DIM + 1)
WORDS_OF_TOLERANCE = "tolerance: expected a finite number"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": -1e-9}, WORDS_OF_TOLERANCE),
        ({"tolerance": float("nan")}, WORDS_OF_TOLERANCE),
        ({"tolerance": float("inf")}, WORDS_OF_TOLERANCE),
        ({"policy": changed(lambda o: PolicyOutput(WIDE, WIDE, WIDE))}, "policy: expected actions"),
        ({"groups": {"policy": 3}}, "add up to 4"),
        ({"groups": {"policy": 3, "extra": 2}}, "add up"),
    ],
)
def test_what_proves_nothing_or_does_not_fit_is_refused(
    recorded: str, options: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check(recorded, **options)


def test_invalid_rows_do_not_count(recorded: str) -> None:
    """Idle environments' rows are not looked at, whatever is in them."""

    def alter(rows: Rows) -> None:
        idle = ~rows["valid_mask"]
        assert idle.any()
        rows["observations"][idle] = np.nan
        rows["action_mean"][idle] = 1e9

    assert check(altered(recorded, alter)).ok


def test_no_valid_row_proves_nothing(recorded: str) -> None:
    def alter(rows: Rows) -> None:
        rows["valid_mask"][:] = False

    report = check(altered(recorded, alter))
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
    assert check(store, Counting(3)).ok
    late = Counting(3)
    late.reset = lambda dones: None
    assert not check(store, late).ok


def test_a_store_without_what_is_needed(store: str) -> None:
    helpers.record(store, 2, schema=helpers.Schema((helpers.Field(name="observations", dim=4),)))
    with pytest.raises(InputError, match="action_mean, action_sigma"):
        check(store)
