"""Policies side by side in one simulation."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.collection.protocols import Observations  # noqa: E402
from mosaic_collect.collection.trial import Lane, run_lanes  # noqa: E402
from tests.collection import toys  # noqa: E402

EPISODES = ((3, 9), (4, 9), (5, 9), (3, 9))


def always(value: float, seen: list[Observations] | None = None) -> Lane:
    def act(observations: Observations) -> torch.Tensor:
        if seen is not None:
            seen.append({name: rows.clone() for name, rows in observations.items()})
        return torch.full((len(observations["student"]), toys.ACTION_DIM), value)

    return act, 0.0


def test_each_lane_acts_in_its_own_environments_and_sees_only_them() -> None:
    simulation, seen = toys.ToySimulation(EPISODES), []
    run_lanes(simulation, [always(1.0), always(2.0, seen)])
    assert all((t[:2] == 1.0).all() and (t[2:] == 2.0).all() for t in simulation.taken)
    assert all((rows >= 200).all() for step in seen for rows in step.values())


def test_it_counts_first_trajectories_that_reached_their_end() -> None:
    lanes, steps = [always(1.0), always(2.0)], []
    assert run_lanes(toys.ToySimulation(EPISODES), lanes, on_step=lambda: steps.append(1)) == [2, 2]
    assert len(steps) == 5
    # A fall within the first one counts, one within the second does not.
    assert run_lanes(toys.ToySimulation(EPISODES, ((1, 0), (3, 1))), lanes) == [1, 2]


def test_noise_is_of_its_lane_and_its_seed() -> None:
    lanes = [always(0.0), (always(0.0)[0], 0.5)]

    def taken(seed: int) -> torch.Tensor:
        simulation = toys.ToySimulation(EPISODES)
        run_lanes(simulation, lanes, seed)
        return torch.stack(simulation.taken)

    first = taken(1)
    assert (first[:, :2] == 0).all()
    assert 0.2 < first[:, 2:].std() < 0.9
    assert torch.equal(taken(1), first)
    assert not torch.equal(taken(2), first)
