"""Action noise, a student that acts, its file, and pushes; the policy labels as it would."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.collection.acting import Acting  # noqa: E402
from mosaic_collect.collection.perturbed import CHANCE, Perturbation  # noqa: E402
from mosaic_collect.collection.student import Student, load_student, read_student  # noqa: E402
from mosaic_collect.errors import InputError, StoreMismatchError  # noqa: E402
from mosaic_collect.reading.verify import verify_store  # noqa: E402
from mosaic_collect.replay.check import replay_check  # noqa: E402
from tests import helpers  # noqa: E402
from tests.collection import students, toys  # noqa: E402
from tests.collection.test_record import recorded  # noqa: E402

EPISODES = ((40, 60), (100,), (50, 50), (30, 30, 40))
NOISY = Acting(action_noise=0.4, seed=3)
PUSHING = Acting(push=0.4, seed=3)


class Witness(toys.ToySimulation):
    """Notes what it is given, and at which steps; it is changed in place behind that."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pushes: list[torch.Tensor] = []
        self.pushed_at: list[int] = []

    def push(self, velocity: torch.Tensor) -> None:
        self.pushes.append(velocity.clone())
        self.pushed_at.append(self.computed)
        velocity.fill_(7.0)  # as careless as real ones may be


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Witness]:
    """The simulations that ``recorded`` makes."""
    found: list[Witness] = []

    def make(_: Any) -> Witness:
        found.append(Witness(EPISODES, falls=[(0, 0)]))
        return found[-1]

    monkeypatch.setattr("tests.collection.toys.ToySimulation", make)
    return found


def noise(data: helpers.TrajectoryDataset) -> np.ndarray:
    return np.asarray(data.read("actions") - data.read("action_mean"))


def pushes(data: helpers.TrajectoryDataset) -> np.ndarray:
    return np.asarray(data.read("push"))


def test_actions_are_what_was_executed_and_labels_the_policys(
    store: str, made: list[Witness]
) -> None:
    policy = toys.ToyPolicy()
    data = recorded(store, acting=NOISY, policy=policy)
    helpers.assert_same(data.read("actions"), torch.stack(made[0].taken).numpy())
    for place, name in ((1, "action_mean"), (2, "action_sigma")):
        said = torch.stack([step[place] for step in policy.said])
        helpers.assert_same(data.read(name), said.numpy())
    assert np.abs(noise(data)).max() > 0.1
    assert verify_store(store).ok


def test_the_replay_holds_on_every_row(store: str, made: list[Witness]) -> None:
    recorded(store, acting=NOISY)
    report = replay_check(store, toys.ToyPolicy(), toys.GROUPS)
    assert (report.ok, report.rows) == (True, 400)


def test_each_trajectory_has_a_scale_which_is_the_noises(store: str, made: list[Witness]) -> None:
    data = recorded(store, acting=NOISY)
    scale, ids = data.read("action_noise"), helpers.ids(data)
    each = {int(one): set(scale[ids == one].tolist()) for one in np.unique(ids)}
    assert all(len(scales) == 1 for scales in each.values())
    drawn = [scales.pop() for scales in each.values()]
    assert len(set(drawn)) == len(drawn) == 8
    assert 0 <= min(drawn) < 0.15 < 0.25 < max(drawn) <= 0.4
    unit = noise(data) / scale[..., None]
    assert abs(unit.mean()) < 0.15
    assert abs(unit.std() - 1) < 0.1


def test_the_mean_scale_is_half_the_largest() -> None:
    many = 4000
    simulation = toys.ToySimulation([[1]] * many)
    noisy, seen = Perturbation(toys.ToyPolicy(), simulation, NOISY), simulation.reset()

    def scale() -> torch.Tensor:
        noisy.act(seen)
        return noisy.reader.before(seen)["action_noise"]

    first, half = scale(), torch.arange(many) < many // 2
    assert abs(first.mean() - 0.2) < 0.01
    noisy.reset(half)
    assert torch.equal(scale()[~half], first[~half])
    assert (scale()[half] != first[half]).all()
    assert (scale() <= 0.4).all()


def test_nothing_asked_is_nothing_changed(tmp_path: Path, made: list[Witness]) -> None:
    plain = recorded(str(tmp_path / "plain.zarr"))
    asked = recorded(str(tmp_path / "asked.zarr"), acting=Acting(seed=5))
    assert asked.schema == plain.schema == toys.SCHEMA
    assert "acting" not in asked.metadata
    assert made[1].pushes == []
    for name in plain.fields:
        helpers.assert_same(asked.read(name), plain.read(name))


@pytest.mark.parametrize(("acting", "read"), [(NOISY, noise), (PUSHING, pushes)])
def test_each_run_and_process_draws_numbers_of_its_own(
    tmp_path: Path, made: list[Witness], acting: Acting, read: Callable[[Any], np.ndarray]
) -> None:
    def run(name: str, origin: Any = toys.ORIGIN, **options: Any) -> np.ndarray:
        return read(recorded(str(tmp_path / name), origin, acting=acting, **options))

    first = run("a", max_steps=50)
    helpers.assert_same(run("b", max_steps=50), first)
    again = run("a", max_steps=100, resume=True)
    helpers.assert_same(again[:50], first)
    assert not np.allclose(again[50:], first)
    other = run("c", toys.ORIGIN, max_steps=50, rank=1, world_size=2)
    assert not np.allclose(other, first)


@pytest.mark.parametrize(
    ("acting", "told"), [(NOISY, {"action_noise": 0.4}), (PUSHING, {"push": 0.4})]
)
def test_a_resume_that_acts_otherwise_is_refused(
    store: str, made: list[Witness], acting: Acting, told: dict[str, float]
) -> None:
    origin = {**toys.ORIGIN, "acting": acting.acting_metadata()}
    assert recorded(store, origin, acting=acting, max_steps=5).metadata["acting"] == told
    assert recorded(store, origin, acting=acting, max_steps=6, resume=True).num_steps == 6
    with pytest.raises(StoreMismatchError, match=re.escape(f"acting: expected {told}, got {{}}")):
        recorded(store, toys.ORIGIN, max_steps=7, resume=True)


def test_each_row_tells_the_push_behind_it(store: str, made: list[Witness]) -> None:
    data = recorded(store, acting=PUSHING, max_steps=100)
    asked, *given = made[0].pushes
    assert not asked.any(), "asked whether it can push, by nothing"
    helpers.assert_same(data.read("push"), torch.stack(given).numpy())
    assert made[0].pushed_at[1:] == list(range(1, 101)), "behind the row, before its step"
    helpers.assert_same(data.read("actions"), data.read("action_mean"))
    assert replay_check(store, toys.ToyPolicy(), toys.GROUPS).rows == data.num_valid
    data = recorded(f"{store}2", acting=replace(PUSHING, action_noise=0.1))
    assert {"push", "action_noise"} < set(data.fields)


def test_pushes_are_rare_and_each_trajectory_has_a_scale_of_its_own() -> None:
    many, steps = 2000, 100
    simulation = Witness([[50] * 2] * many)
    pushed = Perturbation(toys.ToyPolicy(), simulation, Acting(push=0.4))
    for _ in range(steps):
        pushed.reset(pushed.step(torch.zeros(many, 2)).dones)
    given = torch.stack(simulation.pushes[1:])
    came = given.any(dim=2)
    assert abs(float(came.float().mean()) - CHANCE) < 0.002
    # Uniform to 0.4: mean square of a push is 0.4^2 / 3, its fourth moment 3 * 0.4^4 / 5.
    kicks = given[came].flatten()
    assert abs(float(kicks.square().mean()) / (0.16 / 3) - 1) < 0.05
    assert abs(float(kicks.pow(4).mean()) / (3 * 0.4**4 / 5) - 1) < 0.15
    halves = [given[part].square().sum((0, 2)) for part in (slice(50), slice(50, None))]
    # One scale a trajectory, another one behind its end.
    quarters = [given[part].square().sum((0, 2)) for part in (slice(25), slice(25, 50))]
    assert np.corrcoef(*quarters)[0, 1] > 0.1
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.1


def test_a_simulation_that_cannot_push_makes_no_store(store: str) -> None:
    with pytest.raises(InputError, match="push: expected a simulation that can push"):
        recorded(store, acting=PUSHING)
    assert not Path(store).exists()


class TestStudent:
    def acting(self, path: Path, share: float, **more: Any) -> Acting:
        student = students.save(students.Constant(7.0, toys.ACTION_DIM), path / "student.pt")
        return Acting(act_by=student, act_share=share, trust_checkpoint=True, **more)

    def test_it_acts_in_its_share_of_the_steps_and_the_policy_labels(
        self, store: str, made: list[Witness], tmp_path: Path
    ) -> None:
        data = recorded(store, acting=self.acting(tmp_path, 0.25))
        actions, mean = data.read("actions"), data.read("action_mean")
        acted = data.read("student_acted")
        assert acted.dtype == bool
        assert (actions[acted] == 7.0).all()
        helpers.assert_same(actions[~acted], mean[~acted])
        assert 0.18 < acted.mean() < 0.32
        assert replay_check(store, toys.ToyPolicy(), toys.GROUPS).ok
        # Who acts is drawn for each environment and step.
        assert 0 < acted.all(axis=1).sum() + (~acted).all(axis=1).sum() < len(acted)

    def test_with_noise_besides(self, store: str, made: list[Witness], tmp_path: Path) -> None:
        data = recorded(store, acting=self.acting(tmp_path, 1.0, action_noise=0.1))
        off = np.abs(data.read("actions") - 7.0)
        assert 0.1 < off.max() < 0.6
        assert {"action_noise", "student_acted"} < set(data.fields)

    def test_what_it_saw_is_recorded_whatever_it_does_to_it(
        self, store: str, tmp_path: Path, made: list[Witness]
    ) -> None:
        class InPlace(torch.nn.Module):
            def forward(self, seen: torch.Tensor) -> torch.Tensor:
                seen -= 1000.0
                return seen[:, :2].double()

        path = students.save(InPlace(), tmp_path / "s.pt")
        acting = Acting(act_by=path, act_share=1.0, trust_checkpoint=True)
        data = recorded(store, acting=acting)
        seen = data.read("student_observations")
        np.testing.assert_array_equal(np.floor(seen), np.floor(data.read("observations")[..., :3]))
        helpers.assert_same(data.read("actions"), seen[..., :2] - np.float32(1000.0))
        assert made[0].taken[0].dtype == torch.float32, "executed is what is recorded"

    def test_one_that_does_not_fit_makes_no_store(
        self, store: str, made: list[Witness], tmp_path: Path
    ) -> None:
        student = students.save(students.Constant(7.0, 9), tmp_path / "s.pt")
        with pytest.raises(InputError, match=r"expected actions \(4, 2\) .*, got \(4, 9\)"):
            recorded(store, acting=Acting(act_by=student, trust_checkpoint=True))
        assert not Path(store).exists()

    def test_without_a_group_to_see(
        self, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(toys.ToySimulation, "group_dims", toys.GROUPS)
        with pytest.raises(
            InputError, match=r"act_by: expected a group 'student' .* policy, extra"
        ):
            recorded(store, acting=self.acting(tmp_path, 0.5))


#: Four environments, observations of three and actions of two.
SIMULATION = toys.ToySimulation([[1]] * 4)


def loaded(path: str | Path) -> Student:
    return load_student(Acting(act_by=str(path), trust_checkpoint=True), SIMULATION)


def test_it_says_what_the_network_says(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    student = loaded(students.save(network, tmp_path / "s.pt"))
    seen = torch.rand(4, 3)
    said = student(seen)
    torch.testing.assert_close(said, network.eval()(seen).detach())
    assert not said.requires_grad


def test_what_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"act_by: expected mean, sample or .*, got 'men'"):
        loaded("men")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match=r"text\.pt: expected TorchScript"):
        loaded(tmp_path / "text.pt")
    torch.save({"model_state_dict": {}}, tmp_path / "dict.pt")
    with pytest.raises(InputError, match=r"dict\.pt: expected TorchScript"):
        loaded(tmp_path / "dict.pt")


class Hostile(torch.nn.Module):
    """Overwrites a file of its caller's."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        victim = torch.from_file(self.target, shared=True, size=8, dtype=torch.uint8)
        victim.fill_(65)
        return seen[:, :2] * 0.0 + victim.float().mean() * 0.0


def test_nothing_in_it_runs_without_a_word_of_trust(tmp_path: Path) -> None:
    victim = tmp_path / "authorized_keys"
    victim.write_bytes(b"precious")
    path = students.save(Hostile(str(victim)), tmp_path / "s.pt")
    acting = Acting(act_by=path)
    for read in (
        lambda: read_student(acting),
        lambda: load_student(acting, SIMULATION),
    ):
        with pytest.raises(InputError, match=r"TorchScript program.*trust_checkpoint=True"):
            read()
    assert victim.read_bytes() == b"precious"
    loaded(path)
    assert victim.read_bytes() == b"A" * 8


def test_one_of_other_widths(tmp_path: Path) -> None:
    path = students.save(torch.nn.Linear(5, 2), tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"actions \(4, 2\) for student observations \(4, 3\)"):
        loaded(path)
    path = students.save(torch.nn.Linear(3, 1), tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"expected actions \(4, 2\) .*, got \(4, 1\)"):
        loaded(path)


def test_one_that_refuses_by_itself(tmp_path: Path) -> None:
    class Picky(torch.nn.Module):
        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            if seen.shape[1] != 770:
                raise ValueError("770 are expected")
            return seen

    with pytest.raises(InputError, match=r"expected actions .*, torch says: .*770 are expected"):
        loaded(students.save(Picky(), tmp_path / "s.pt"))


def test_the_file_is_read_once(tmp_path: Path) -> None:
    """A loop that trains students writes the next one to the same place."""
    path = tmp_path / "s.pt"
    students.save(students.Constant(1.0, 2), path)
    acting = Acting(act_by=str(path), trust_checkpoint=True)
    told = acting.acting_metadata()
    students.save(students.Constant(2.0, 2), path)
    assert Acting(act_by=str(path)).acting_metadata() != told == acting.acting_metadata()
    student = load_student(acting, SIMULATION)
    assert (student(torch.zeros(4, 3)) == 1.0).all()
