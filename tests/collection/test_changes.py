"""The provenance that a resume must find again in its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import TrajectoryDataset  # noqa: E402
from mosaic_collect.collection.ranks import refuse_changes  # noqa: E402
from mosaic_collect.errors import StoreMismatchError  # noqa: E402
from tests import helpers  # noqa: E402
from tests.collection.toys import ORIGIN  # noqa: E402

PATH = {"path": "/models/m.pt", "sha256": "ab"}
STUDENT = {"action_noise": 0.3, "act_by": {"path": "/s.pt", "sha256": "ef"}, "act_share": 0.5}
OTHER = {**STUDENT, "act_by": {"path": "/s.pt", "sha256": "00"}}


def differences(
    store: str, before: dict[str, Any], now: dict[str, Any], allowed: Any = None
) -> list[str]:
    """Record a store with some metadata; names and words of what a resume refuses."""
    with helpers.open_writer(store, 2, metadata=before, overwrite=True):
        pass
    try:
        refuse_changes(TrajectoryDataset(store), now, allowed)
    except StoreMismatchError as error:
        words = str(error).partition("otherwise: ")[2]
        assert ("; --allow-changed NAME goes on all the same" in words) == (allowed is not None)
        return words.removesuffix("; --allow-changed NAME goes on all the same").split("; ")
    return []


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("simulator", {}, {"simulator": "another"}),
        ("task", {}, {"task": "Walk"}),
        ("checkpoint", {}, {"checkpoint": {**PATH, "sha256": "cd"}}),
        ("observations", {}, {"observations": {"student_history": 3}}),
        ("steps_per_env", {"steps_per_env": 100}, {"steps_per_env": 99}),
        ("steps_per_env", {}, {"steps_per_env": 99}),
        ("ranks", {}, {"ranks": [0, 2]}),
        ("acting", {"acting": STUDENT}, {"acting": OTHER}),
        ("acting", {"acting": STUDENT}, {"acting": {}}),
        ("acting", {}, {"acting": STUDENT}),
    ],
)
def test_what_has_changed_is_named(
    store: str, name: str, before: dict[str, Any], now: dict[str, Any]
) -> None:
    there, here = {**ORIGIN, **before}, {**ORIGIN, "acting": {}, **now}
    (words,) = differences(store, there, here)
    assert words.startswith(f"{name}: expected ")
    assert differences(store, there, here, ("robot",)) == [words]
    assert differences(store, there, here, (name,)) == []


def test_all_that_has_changed_is_told_with_what_was_and_what_is(store: str) -> None:
    other = {**ORIGIN, "task": "Walk", "checkpoint": {"path": "m.pt", "sha256": "cd"}}
    assert differences(store, ORIGIN, other) == [
        "task: expected 'Track', got 'Walk'",
        "checkpoint: expected 'ab', got 'cd'",
    ]


def test_files_are_known_by_their_content(store: str) -> None:
    acting = {**STUDENT, "act_by": {"path": "/elsewhere.pt", "sha256": "ef"}}
    moved = {**ORIGIN, "checkpoint": {**PATH, "path": "/elsewhere.pt"}, "acting": acting}
    assert differences(store, {**ORIGIN, "acting": STUDENT}, moved) == []


@pytest.mark.parametrize("told", [{}, {"checkpoint": "model.pt"}, {"checkpoint_sha256": "cd"}])
def test_a_store_of_something_else(store: str, told: dict[str, Any]) -> None:
    names = ["simulator", "task", "observations", "ranks", "checkpoint"]
    assert [w.split(":")[0] for w in differences(store, told, ORIGIN)] == names


def test_a_new_store_and_an_unborn_one(store: str) -> None:
    refuse_changes(None, ORIGIN)
    Path(store).mkdir()
    (Path(store) / ".mosaic_collect.lock").touch()
    refuse_changes(TrajectoryDataset(store), ORIGIN)
