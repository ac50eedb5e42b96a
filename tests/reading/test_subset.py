"""Subsets of pairs, the sides of a split among them: one rule for exports and loaders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, TrajectoryDataset, copy_store, export_npy, verify_export
from mosaic_collect.errors import InputError
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.reading.selection import Split
from tests import helpers

FIELDS = ["actions", "trajectory_id"]


def record(path: Any, steps: int = 40, **options: Any) -> TrajectoryDataset:
    """Record trajectories of four steps in eight environments."""
    with helpers.open_writer(path, 8, **options) as writer:
        for step in range(writer.num_steps, steps):
            helpers.add(writer, step)
            if step % 4 == 3:
                writer.end_trajectories(np.arange(8))
    return TrajectoryDataset(path)


def side(stores: Any, npy: str, split: str | None, **options: Any) -> set[int]:
    """Ids of the trajectories that an export of a side holds; each must be there whole."""
    export_npy(stores, npy, "compact", FIELDS, split=split, **options)
    found, counts = np.unique(read_npy(npy)["trajectory_id"], return_counts=True)
    assert (counts == 4).all()
    return set(found.tolist())


def test_the_sides_are_apart_and_together_all_trajectories(store: str, npy: str) -> None:
    record(store)
    previous = set[int]()
    for fraction in (0.1, 0.3, 0.6):
        options = {"validation_fraction": fraction}
        train, validation = (side(store, npy, name, **options) for name in ("train", "validation"))
        assert not train & validation
        assert train | validation == set(range(80))
        assert previous < validation, "a larger fraction holds out the same trajectories, and more"
        previous = validation
    assert side(store, npy, None) == set(range(80))


def test_a_trajectory_keeps_its_side(tmp_path: Any, npy: str) -> None:
    """When its store grows, is copied, or is listed with others, whatever its id is there."""
    first, second, other = (str(tmp_path / name) for name in ("a", "b", "copy"))
    used = record(first).state.next_trajectory_id
    record(second, 20)
    options = {"split": "validation", "validation_fraction": 0.4}
    before = side(second, npy, **options)
    copy_store(second, other)
    assert side(other, npy, **options) == before
    joined = side([first, second], npy, **options)
    assert joined == side(first, npy, **options) | {used + number for number in before}
    record(second, 60, resume=True)
    assert {number for number in side(second, npy, **options) if number < 40} == before
    assert side(second, npy, split_seed=1, **options) != side(second, npy, **options)


def test_the_fraction_is_that_of_many_trajectories() -> None:
    ids = np.arange(200_000)
    for fraction in (0.001, 0.1, 0.5, 0.999):
        sides = []
        for identity in ("0" * 32, "f" * 32):
            held_out = Split("validation", fraction, 3).holds(identity, ids)
            sides.append(held_out)
            bound = 5 * np.sqrt(fraction * (1 - fraction) / len(ids))
            assert abs(held_out.mean() - fraction) < bound
            assert (Split("train", fraction, 3).holds(identity, ids) != held_out).all()
        assert (sides[0] != sides[1]).any(), "each store has sides of its own"


def test_steps_trajectories_and_motions_choose_the_pairs(tmp_path: Any, npy: str) -> None:
    """Motions by id and by name, as the stores together number them; alone and combined."""
    stores = [str(tmp_path / name) for name in ("a", "b")]
    schema = helpers.SMALL.with_fields(Field(name="motion_id", dtype="int32"))
    for store, motions in zip(stores, (["walk.npz", "run.npz"], ["run.npz", "7.npz"]), strict=True):
        metadata = {"motions": [{"path": f"/m/{name}"} for name in motions]}
        with helpers.open_writer(store, 4, schema, metadata=metadata) as writer:
            for step in range(8):
                row = helpers.rows(step, 4, schema)
                row["motion_id"] = np.array([0, 0, 1, 1], np.int32) ^ (step > 4)
                writer.add_step(**row, valid_mask=helpers.mask(step, 4))
                writer.end_trajectories(np.arange(4) if step == 4 else [])
    dataset = TrajectoryDataset(stores)
    read = {name: dataset.read(name) for name in dataset.fields}
    step = np.broadcast_to(np.tile(np.arange(8), 2)[:, None], (16, 4))
    of_ids = np.isin(read["trajectory_id"], [1, 6, 9])
    of_motions = np.isin(read["motion_id"], [1, 2])
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"steps": "2:6"}, (step >= 2) & (step < 6)),
        ({"steps": slice(1, None, 3)}, step % 3 == 1),
        ({"trajectories": [9, 1, 6]}, of_ids),
        ({"motions": ["run", "7"]}, of_motions),
        ({"motions": [1, "7.npz"]}, of_motions),
        ({"motions": "run", "trajectories": (1, 6, 9)}, of_ids & (read["motion_id"] == 1)),
    ]
    for options, wanted in cases:
        report = export_npy(stores, npy, fields=["actions", "motion_id"], **options)
        chosen = wanted & read["valid_mask"]
        assert report.num_pairs == chosen.sum() > 0, options
        assert report.left_out.invalid == (wanted & ~read["valid_mask"]).sum()
        found = read_npy(npy)
        for name in ("actions", "motion_id"):
            helpers.assert_same(found[name][:, 0], read[name][chosen], f"{options} {name}")
        assert verify_export(stores, npy).ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "split: expected train or validation, got test"),
        ({"split": "train", "validation_fraction": 1}, "validation_fraction: expected a number"),
        ({"split": "train", "validation_fraction": "x"}, "validation_fraction: expected a number"),
        ({"split": "train", "split_seed": -1}, "split_seed: expected a whole number from 0"),
        ({"split": "train", "layout": "grid"}, "split: a grid holds every pair"),
        ({"steps": "1-3"}, "steps: expected a slice of steps, or a range"),
        ({"trajectories": [5000]}, r"trajectories: expected ids of 0\.\..*, got 5000"),
        ({"trajectories": "all"}, "trajectories: expected ids"),
        ({"motions": ["walk"]}, "motion: the store has no field motion_id"),
        ({"motions": [1.5]}, "motions: expected names or ids"),
    ],
)
def test_impossible_subsets_are_refused(
    store: str, npy: str, options: dict[str, Any], words: str
) -> None:
    record(store, 4)
    with pytest.raises(InputError, match=words):
        export_npy(store, npy, **options)
