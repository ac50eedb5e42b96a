"""Both demos in small; whether a student stands, a run tells."""

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
from mosaic_collect.export.compare import verify_export
from mosaic_collect.reading.verify import verify_store
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


@pytest.mark.skipif(
    "MOSAIC_COLLECT_TEST_SH" in os.environ,
    reason="tests/test_readme.py runs all of scripts/demo.sh",
)
def test_the_demo_proves_itself(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "demo")
    assert main(["demo", "--output", output, "--num-envs", "3", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    store, npy = f"{output}/g1.zarr", f"{output}/g1.npy"
    assert "all proven" in out
    assert "NO" not in out.split("all proven", 1)[1].splitlines()[0]
    for words in ("broken off, as by Ctrl-C: 30 steps committed", "Try next", store, npy):
        assert words in out

    dataset = TrajectoryDataset(store)
    assert dataset.status == "complete"
    assert len(dataset.state.runs) == 2
    assert dataset.schema["student_observations"].dim == 770
    counts = dataset.metadata["motion_counts"]
    assert sum(counts["completed"]) >= 1, "the expert tracks the motion to its end"
    assert dataset.metadata["acting"] == {"action_noise": 0.6}
    for name in ("report.html", "fall.png")[: 1 + (sum(counts["fell"]) > 0)]:
        assert f"{output}/{name}" in out.split("all proven", 1)[1]
        assert os.path.getsize(f"{output}/{name}") > 10_000
    assert verify_store(store).ok
    assert verify_export(store, npy).ok


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "no demo made" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
