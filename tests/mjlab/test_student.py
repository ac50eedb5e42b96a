"""The demo that makes a student, with a hundredth of its data; whether it stands, a run tells."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mosaic_collect
from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from tests import helpers
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, TASK, Case, make_case
from tests.test_readme import run_api_examples

pytestmark = mjlab_case.MARKS
EXAMPLE = Path(helpers.REPO) / "examples" / "train_student.py"
#: All of it takes some minutes: set this to run it on three seeds, with two students.
PROOF = "MOSAIC_COLLECT_STUDENT_PROOF"


def test_the_demo_in_small(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.g1.student import run_student

    output = str(tmp_path / "demo")
    good = run_student(output, 4, "cpu", steps=6, updates=4, each=2)
    out = capsys.readouterr().out
    assert not good, "four updates make no student"
    assert "24 pairs" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("  the ")]
    assert rows[0] == ["the", "expert", "2", "of", "2", "2", "of", "2"]
    assert [row[1] for row in rows] == ["expert", "student"]
    dataset = TrajectoryDataset(f"{output}/disturbed.zarr")
    assert dataset.metadata["acting"] == {"action_noise": 0.1, "start": "random"}

    # The student that it leaves can act where the expert labels.
    acting = ["--act-by", f"{output}/student.pt", "--act-share", "1.0", "--trust-checkpoint"]
    assert main(case.command("labelled", "--num-envs", "2", "--max-steps", "3", *acting)) == 0
    assert case.data("labelled").read("student_acted").all()


def test_the_command_line_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr("examples.g1.student.run_student", lambda *a: called.append(a) or 1)
    assert main(["demo", "--student", "--output", "x"]) == 0
    assert called == [("x", 128, None)]


def test_goals_are_shares_of_each_lane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from examples.g1 import student

    monkeypatch.setattr(student, "_record", lambda options: None)
    monkeypatch.setattr(student, "_train", lambda *given: None)
    monkeypatch.setattr(student, "save_student", lambda *given: None)
    for reached, good in (([31, 28], True), ([32, 32], True), ([30, 32], False), ([32, 27], False)):
        found = [[32, 32], reached]
        monkeypatch.setattr(student, "try_students", lambda *given, found=found: found)
        assert student.run_student(str(tmp_path / "demo"), 4, "cpu") is good


def test_the_example_in_small(case: Case, tmp_path: Path) -> None:
    given = ["--task", TASK, "--motion", case.motions, "--checkpoint", EXPERT]
    given += ["--output", str(tmp_path / "out"), "--steps", "9", "--updates", "3", "--each", "1"]
    environment = {**os.environ, "PYTHONPATH": helpers.REPO, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "expert: 1 of 1 to the motion's end" in result.stdout
    assert (tmp_path / "out" / "student.pt").exists()


def test_the_example_is_short_and_imports_public_names_alone() -> None:
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 80
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if str(node.module).startswith("mosaic_collect")]
    assert [node.module for node in ours] == ["mosaic_collect"]
    assert {alias.name for alias in ours[0].names} <= {*mosaic_collect.__all__}


def test_the_examples_of_the_reference(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(case.motions, "motions")
    os.symlink(EXPERT, "model.pt")
    run_api_examples(True, capsys)


@pytest.mark.skipif(PROOF not in os.environ, reason=f"takes minutes: set {PROOF}")
def test_students_stand_what_their_teacher_stands(tmp_path: Path) -> None:
    from examples.g1 import student as demo
    from examples.g1.training import train_student

    demo.run_student(str(tmp_path / "demo"), 128, "cpu", each=1)
    store = str(tmp_path / "demo" / "disturbed.zarr")
    students = [train_student(store, demo.UPDATES, seed) for seed in (0, 1)]
    options = make_case(tmp_path).options("trial", motion=str(mjlab_case.ASSETS / "g1_squat.npz"))
    for seed in (101, 102, 103):
        _, *reached = demo.try_students(options, students, 32, seed)
        for undisturbed, disturbed in reached:
            assert (undisturbed >= 31, disturbed >= 28) == (True, True), (seed, reached)
