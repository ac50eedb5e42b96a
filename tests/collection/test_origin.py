"""What a store tells of its origin, and what a resume finds of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.collection.motions import file_sha256
from mosaic_collect.collection.origin import Origin, file_identity, refuse_changes
from mosaic_collect.errors import InputError, StoreMismatchError
from tests import helpers

MJLAB = Origin(
    simulator="mjlab",
    task="Track",
    checkpoint={"path": "/models/m.pt", "sha256": "ab"},
    runner_cfg={"actor": {"hidden_dims": [8]}},
    observations={"teacher_noise": True, "student_history": 5, "student_noise": True},
    notes={"seed": 7, "passes": None},
)
ISAACLAB = Origin(
    simulator="isaaclab",
    task="Track",
    checkpoint={"path": "/models/m.pt", "sha256": "ab"},
    runner_cfg={"policy": {}},
    observations={"student_task": "S", "student_history": None, "student_noise": False},
    limits={"steps_per_env": 100},
    notes={"flags": {"task": "Track"}},
)
FORMS = [pytest.param(MJLAB, id="mjlab"), pytest.param(ISAACLAB, id="isaaclab")]


def test_both_simulators_tell_it_by_the_same_names() -> None:
    common = {"simulator", "task", "checkpoint", "runner_cfg", "observations", "ranks"}
    assert set(MJLAB.to_metadata()) == common | {"seed", "passes"}
    assert set(ISAACLAB.to_metadata()) == common | {"steps_per_env", "flags"}
    for origin in (MJLAB, ISAACLAB):
        told = origin.to_metadata()
        assert json.loads(json.dumps(told)) == told
        assert told["checkpoint"] == {"path": "/models/m.pt", "sha256": "ab"}
        assert told["ranks"] == [0, 1]


@pytest.mark.parametrize("origin", FORMS)
def test_nothing_has_changed(origin: Origin) -> None:
    told = origin.to_metadata()
    assert origin.differences(told) == []
    elsewhere = replace(origin, checkpoint={"path": "/elsewhere.pt", "sha256": "ab"})
    noted = replace(elsewhere, notes={"seed": 8}, runner_cfg={"more": 1})
    assert noted.differences(told) == []


@pytest.mark.parametrize("origin", FORMS)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("simulator", {"simulator": "another"}),
        ("task", {"task": "Walk"}),
        ("checkpoint", {"checkpoint": {"path": "/models/m.pt", "sha256": "cd"}}),
        ("observations", {"observations": {"student_history": 3}}),
        ("steps_per_env", {"limits": {"steps_per_env": 99}}),
    ],
)
def test_what_has_changed_is_named(origin: Origin, name: str, changes: dict[str, Any]) -> None:
    told = origin.to_metadata()
    (words,) = replace(origin, **changes).differences(told)
    assert words.startswith(f"{name}: expected ")
    assert replace(origin, **changes).differences(told, allowed=(name,)) == []


def test_all_that_has_changed_is_told_with_what_was_and_what_is() -> None:
    other = replace(MJLAB, task="Walk", checkpoint={"path": "m.pt", "sha256": "cd"})
    assert other.differences(MJLAB.to_metadata()) == [
        "task: expected 'Track', got 'Walk'",
        "checkpoint: expected 'ab', got 'cd'",
    ]


def test_ranks_must_stay_where_the_store_tells_them() -> None:
    of_two = replace(ISAACLAB, ranks=(0, 2))
    assert of_two.differences(of_two.to_metadata()) == []
    assert of_two.differences(ISAACLAB.to_metadata()) == ["ranks: expected [0, 1], got [0, 2]"]


def test_who_acts_must_stay_and_a_student_is_known_by_its_content() -> None:
    student = {"path": "/models/s.pt", "sha256": "ef"}
    acting = {"action_noise": 0.3, "act_by": student, "act_share": 0.5}
    disturbed = replace(MJLAB, acting=acting)
    told = disturbed.to_metadata()
    assert told["acting"] == acting
    assert disturbed.differences(told) == []
    moved = replace(MJLAB, acting={**acting, "act_by": {"path": "/x.pt", "sha256": "ef"}})
    assert moved.differences(told) == []
    other = replace(MJLAB, acting={**acting, "act_by": {"path": "/models/s.pt", "sha256": "00"}})
    for origin, stored in ((other, told), (MJLAB, told), (disturbed, MJLAB.to_metadata())):
        (words,) = origin.differences(stored)
        assert words.startswith("acting: expected ")
        assert origin.differences(stored, allowed=("acting",)) == []


@pytest.mark.parametrize("told", [{}, {"checkpoint": "model.pt"}, {"checkpoint_sha256": "cd"}])
def test_a_store_of_something_else(told: dict[str, Any]) -> None:
    words = MJLAB.differences(told)
    names = ["simulator", "task", "observations", "ranks", "checkpoint"]
    assert [w.split(":")[0] for w in words] == names


def test_a_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "m.pt")
    assert file_identity("m.pt") == {"path": path, "sha256": file_sha256(path)}
    with pytest.raises(InputError, match=r"none\.pt: cannot be read"):
        file_identity("none.pt")


class TestRefusing:
    def test_a_new_store_and_an_unborn_one(self, store: str) -> None:
        refuse_changes(None, MJLAB)
        Path(store).mkdir()
        (Path(store) / ".mosaic_collect.lock").touch()
        refuse_changes(TrajectoryDataset(store), MJLAB)

    def test_a_store(self, store: str) -> None:
        with helpers.open_writer(store, 2, metadata=ISAACLAB.to_metadata()):
            pass
        known = TrajectoryDataset(store)
        refuse_changes(known, ISAACLAB)
        other = replace(ISAACLAB, task="Walk")
        with pytest.raises(StoreMismatchError, match=r"collected otherwise: task: .* 'Walk'$"):
            refuse_changes(known, other)
        with pytest.raises(StoreMismatchError, match="--allow-changed NAME goes on all the same"):
            refuse_changes(known, other, ("checkpoint",))
        refuse_changes(known, other, ("task",))
