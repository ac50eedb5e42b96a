"""Students as files."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.collection.student import load_student  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from tests.collection import students  # noqa: E402

CPU = torch.device("cpu")


def test_it_says_what_the_network_says(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    path = students.save(network, tmp_path / "s.pt")
    student = load_student(path, 4, 3, 2, CPU)
    seen = torch.rand(4, 3)
    said = student(seen)
    torch.testing.assert_close(said, network.eval()(seen).detach())
    assert not said.requires_grad


def test_what_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"act_by: expected mean, sample or .*, got 'men'"):
        load_student("men", 4, 3, 2, CPU)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match=r"text\.pt: expected TorchScript"):
        load_student(tmp_path / "text.pt", 4, 3, 2, CPU)
    torch.save({"model_state_dict": {}}, tmp_path / "dict.pt")
    with pytest.raises(InputError, match=r"dict\.pt: expected TorchScript"):
        load_student(tmp_path / "dict.pt", 4, 3, 2, CPU)


def test_one_of_other_widths(tmp_path: Path) -> None:
    path = students.save(torch.nn.Linear(5, 2), tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"actions \(4, 2\) for student observations \(4, 3\)"):
        load_student(path, 4, 3, 2, CPU)
    path = students.save(torch.nn.Linear(3, 1), tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"expected actions \(4, 2\) .*, got \(4, 1\)"):
        load_student(path, 4, 3, 2, CPU)
