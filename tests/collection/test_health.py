"""What is said of a collection while it runs, and what is recorded all the same."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset  # noqa: E402
from mosaic_collect.adapters.rsl_rl.simulation import disagreement  # noqa: E402
from mosaic_collect.collection.protocols import Observations, PolicyOutput  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from tests.collection import toys  # noqa: E402


@pytest.fixture(autouse=True)
def warnings_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


class Mad(toys.ToyPolicy):
    """Says a value for one environment's last actions, from a step on."""

    def __init__(self, step: int, env: int, value: float, dims: int = 1) -> None:
        super().__init__()
        self.step, self.env, self.value, self.dims = step, env, value, dims

    def act(self, observations: Observations) -> PolicyOutput:
        output = super().act(observations)
        if len(self.seen) > self.step:
            output.mean[self.env, -self.dims :] = self.value
        return output


def recorded(
    store: str, episodes: Any, policy: Any = None, falls: Any = (), **options: Any
) -> TrajectoryDataset:
    return toys.collected(store, toys.ToySimulation(episodes, falls), policy, **options)


class TestNonfinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_it_is_said_when_it_starts_and_at_the_end_and_recorded(
        self, store: str, caplog: pytest.LogCaptureFixture, value: float
    ) -> None:
        data = recorded(store, ((9,), (9,)), Mad(4, 1, value))
        started, ended = (r.getMessage() for r in caplog.records)
        assert started == (
            "the policy gives NaN or infinity: step 4, action_mean in 1 of 2 environments, "
            "1 the first"
        )
        assert ended.startswith("5 of 18 recorded rows of this run hold NaN or infinity; the first")
        mean = data.read("action_mean")
        assert np.flatnonzero(~np.isfinite(mean[:, 1, 1])).tolist() == [4, 5, 6, 7, 8]
        assert np.isfinite(mean[:, 0]).all()
        assert data.status == "complete"

    def test_it_ends_the_run_if_it_shall(
        self, store: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(InputError, match=r"step 4, action_mean .* recorded, and stopped there"):
            recorded(store, ((9,), (9,)), Mad(4, 1, np.nan), stop_on_nonfinite=True)
        data = TrajectoryDataset(store)
        assert (data.num_steps, data.status) == (5, "collecting")
        assert "1 of 10 recorded rows" in caplog.text

    def test_who_idles_does_not_count(self, store: str, caplog: pytest.LogCaptureFixture) -> None:
        recorded(store, ((9,), (3,)), Mad(4, 1, np.nan), stop_on_nonfinite=True)
        assert caplog.text == ""

    def test_a_simulation_is_told_from_a_policy(
        self, store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        observe = toys.ToySimulation._observe

        def broken(self: Any) -> Observations:
            groups = observe(self)
            groups["extra"][:] = torch.nan
            return groups

        monkeypatch.setattr(toys.ToySimulation, "_observe", broken)
        recorded(store, ((2,), (2,)))
        assert "the simulation gives NaN or infinity: step 0, observations, " in caplog.text
        assert "in 2 of 2 environments, 0 the first" in caplog.text
        assert "4 of 4 recorded rows" in caplog.text

    def test_large_numbers_are_numbers(self, store: str, caplog: pytest.LogCaptureFixture) -> None:
        """Their sum is none in float32."""
        recorded(store, ((3,), (3,)), Mad(0, 1, 3e38, dims=2), stop_on_nonfinite=True)
        assert caplog.text == ""


class TestFirstStep:
    def test_all_that_fail_with_it_are_told_at_once(
        self, store: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[int] = []

        def look(writer: Any) -> None:
            seen.append(len(caplog.records))

        recorded(store, ((1, 5), (1, 5)), falls=((0, 0), (1, 0)), on_step=look)
        (said,) = (r.getMessage() for r in caplog.records)
        assert said.startswith("all 2 trajectories failed with their first step (fall: 2); likely")
        assert seen[0] == 1

    @pytest.mark.parametrize(
        ("episodes", "falls"),
        [
            (((1, 5), (2, 5)), ((0, 0), (1, 0))),
            (((1, 5), (1, 5)), ((0, 0),)),
            (((3, 1), (3, 1)), ((0, 1), (1, 1))),
        ],
        ids=["one goes on", "one was at its end", "later"],
    )
    def test_else_nothing_is_said(
        self, store: str, caplog: pytest.LogCaptureFixture, episodes: Any, falls: Any
    ) -> None:
        recorded(store, episodes, falls=falls)
        assert caplog.text == ""

    def test_the_reference_that_was_elsewhere_is_the_likely_cause(
        self, store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(toys.ToySimulation, "disagreement", lambda self, active: "over there")
        recorded(store, ((1,), ()), falls=((0, 0),))
        first, second = (r.getMessage() for r in caplog.records)
        assert first == "reference and robot disagree after the first reset: over there"
        assert second.endswith("(fall: 1); for reference and robot disagree, as said")


class Command:
    """A motion command of three bodies one above the other, and a robot on its reference."""

    class cfg:  # noqa: N801
        body_names = ("base", "trunk", "head")

    def __init__(self) -> None:
        self.body_pos_w = torch.zeros(4, 3, 3)
        self.body_pos_w[..., 2] = torch.tensor([0.0, 1.0, 2.0])
        self.robot_body_pos_w = self.body_pos_w.clone()
        self.body_lin_vel_w = torch.zeros(4, 3, 3)
        self.joint_pos = torch.zeros(4, 2)
        self.robot_joint_pos = torch.zeros(4, 2)


class TestDisagreement:
    ACTIVE = torch.tensor([True, True, False, True])

    def said(self, command: Any) -> str | None:
        return disagreement(command, 0.02, self.ACTIVE)

    def test_none(self) -> None:
        assert self.said(Command()) is None
        assert self.said(object()) is None, "a command without bodies has none to disagree"

    def test_a_step_ahead_is_no_disagreement(self) -> None:
        command = Command()
        command.body_pos_w[..., 0] += 0.1
        assert self.said(command) is not None
        command.body_lin_vel_w[..., 0] = 5.0
        assert self.said(command) is None

    def test_who_idles_does_not_count(self) -> None:
        command = Command()
        command.body_pos_w[2] += 9.0
        assert self.said(command) is None

    def test_bodies_in_another_order(self) -> None:
        command = Command()
        command.body_pos_w[3] = command.body_pos_w[3, [1, 0, 2]]
        words = self.said(command)
        assert words is not None
        assert words.startswith("in 1 of 3 environments; body 'base' is 1.00 m from the robot's;")
        assert "another order: it has 'base' where the robot's 'trunk' is" in words

    def test_joints_that_the_robot_cannot_take(self) -> None:
        command = Command()
        command.robot_body_pos_w[0, 2, 0] = 1.0
        command.joint_pos[0] = 57.0
        assert "joints are in another order, of another robot, or in degrees" in str(
            self.said(command)
        )

    def test_anything_else(self) -> None:
        command = Command()
        command.robot_body_pos_w[1, 2] = torch.tensor([0.7, 0.7, torch.nan])
        assert "xyzw for wxyz" in str(self.said(command))
