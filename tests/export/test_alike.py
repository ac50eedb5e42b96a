"""Stores of different origin that are to become one file: refused, allowed by name, or noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import export_npy
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.export.compare import verify_export
from mosaic_collect.store.schema import Schema
from tests import helpers

TOLD: dict[str, Any] = {
    "simulator": "mjlab",
    "task": "Track",
    "groups": {"proprio": 1, "command": 2},
    "observations": {"teacher_noise": True, "student_history": 5, "student_noise": True},
    "terms": {
        "observations": [{"name": "gyro", "dim": 1}, {"name": "command", "dim": 2}],
        "student_observations": [{"name": "gyro", "dim": 4}],
    },
    "checkpoint": {"path": "m.pt", "sha256": "ab"},
}
SCHEMA = Schema.mosaic(obs_dim=3, action_dim=2, student_obs_dim=4)
#: What another store says otherwise, and what is said of it.
OTHERS: dict[str, tuple[Any, str]] = {
    "simulator": ("isaaclab", "says mjlab, .* says isaaclab"),
    "task": ("Walk", "says Track, .* says Walk"),
    "groups": (
        {"command": 2, "proprio": 1},
        "says proprio: 1, command: 2, .* says command: 2, proprio: 1",
    ),
    "terms": (
        {**TOLD["terms"], "observations": TOLD["terms"]["observations"][::-1]},
        r"says observations: .*gyro.*command.*, .* says observations: .*command.*gyro.*",
    ),
    "observations": (
        {**TOLD["observations"], "student_history": 3},
        "says student_history: 5, .* says student_history: 3",
    ),
}
Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(name: str, **changes: Any) -> str:
        metadata = {k: v for k, v in {**TOLD, **changes}.items() if v is not None}
        path = str(tmp_path / f"{name}.zarr")
        helpers.record(path, 2, schema=SCHEMA, metadata=metadata)
        return path

    return made


def test_of_one_origin(make: Make, npy: str) -> None:
    assert export_npy([make("a"), make("b")], npy).notes[0].startswith("MOSAIC loads")


@pytest.mark.parametrize("name", OTHERS)
def test_another_origin_is_refused_or_allowed_by_name(make: Make, npy: str, name: str) -> None:
    other, words = OTHERS[name]
    stores = [make("a"), make("b"), make("c", **{name: other})]
    refused = rf"{name}: .*a\.zarr {words}, unless allow_different='{name}'"
    with pytest.raises(StoreMismatchError, match=refused):
        export_npy(stores, npy)
    but = [n for n in OTHERS if n != name]
    with pytest.raises(StoreMismatchError, match=refused):
        export_npy(stores, npy, allow_different=but)
    assert not Path(npy).exists()
    report = export_npy(stores, npy, allow_different=name)
    assert report.notes[0].startswith(f"the stores differ in {name}, which was allowed: {name}: ")
    assert verify_export(stores, npy).ok


def test_all_that_differs_is_told_at_once(make: Make, npy: str) -> None:
    stores = [make("a"), make("b", **{name: other for name, (other, _) in OTHERS.items()})]
    with pytest.raises(StoreMismatchError) as told:
        export_npy(stores, npy)
    assert all(f"allow_different='{name}'" in str(told.value) for name in OTHERS)
    assert len(export_npy(stores, npy, allow_different=tuple(OTHERS)).notes) == 6


def test_groups_say_nothing_of_a_file_without_their_columns(make: Make, npy: str) -> None:
    others = {name: OTHERS[name][0] for name in ("groups", "terms")}
    stores = [make("a"), make("b", **others)]
    fields = ["student_observations", "actions", "action_mean", "action_sigma"]
    groups, terms = export_npy(stores, npy, fields=fields).notes
    assert groups.startswith("the stores differ in groups")
    assert terms.startswith("the stores differ in terms")


def test_another_checkpoint_is_noted(make: Make, npy: str) -> None:
    stores = [make("a"), make("b", checkpoint={"path": "elsewhere/m.pt", "sha256": "ab"})]
    assert len(export_npy(stores, npy).notes) == 1
    stores += [make("c", checkpoint={"path": "m.pt", "sha256": "cd"})]
    assert export_npy(stores, npy).notes[0] == "the stores are of 2 checkpoints"


def test_what_a_store_does_not_say_is_noted(make: Make, npy: str) -> None:
    stores = [make("a"), make("b", task=None)]
    (first, *_) = export_npy(stores, npy).notes
    assert first == f"not all stores say their task: {stores[1]} may be of another"
    nothing = [make(n, **dict.fromkeys(TOLD)) for n in ("c", "d")]
    assert export_npy(nothing, npy).notes[0].startswith("MOSAIC loads")


@pytest.mark.parametrize("given", ["tusk", ["task", "checkpoint"], [3], 7])
def test_only_these_names_can_be_allowed(make: Make, npy: str, given: Any) -> None:
    with pytest.raises(
        InputError, match="allow_different: expected some of simulator, task, robot"
    ):
        export_npy(make("a"), npy, allow_different=given)


def test_on_the_command_line(make: Make, npy: str, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [make("a"), make("b", task="Walk", groups=OTHERS["groups"][0])]
    assert main(["export", *stores, npy]) == 2
    told = capsys.readouterr().err
    assert "unless --allow-different task" in told
    assert "unless --allow-different groups" in told
    assert main(["export", *stores, npy, "--allow-different", "task", "groups"]) == 0
    assert "note: the stores differ in task, which was allowed" in capsys.readouterr().out
    assert main(["verify", *stores, "--npy", npy]) == 0
