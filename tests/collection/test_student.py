"""Students as files."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.collection.acting import Acting  # noqa: E402
from mosaic_collect.collection.student import Student, load_student, read_student  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from tests.collection import students, toys  # noqa: E402

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
