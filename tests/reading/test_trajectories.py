"""The table of trajectories, and one trajectory, against what was recorded."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.store.schema import Field
from tests import helpers
from tests.export import stores

N = 5
SCHEMA = helpers.SMALL.with_fields(Field(name="motion_id", dtype="int32")).with_ends()


def naive(dataset: TrajectoryDataset) -> list[tuple[int, ...]]:
    """(id, env, first, last, valid) of each id, row by row."""
    ids, valid = dataset.read("trajectory_id"), dataset.read("valid_mask")
    found = []
    for number in np.unique(ids):
        steps, envs = np.nonzero(ids == number)
        assert len(set(envs)) == 1
        at = (int(number), int(envs[0]), int(steps[0]), int(steps[-1]))
        found.append((*at, int(valid[steps, envs].sum())))
    return found


@pytest.fixture
def mixed(store: str) -> TrajectoryDataset:
    """Two runs, the first of them killed; ends, falls and interrupted ones; seven steps a block."""

    def motion(step: int, rows: dict[str, Any]) -> None:
        rows["motion_id"][:] = np.arange(N) + 10 * (step // 12)

    options: dict[str, Any] = {
        "masks": stores.some_masks(N),
        "edit": motion,
        "num_envs": N,
        "block_steps": 7,
    }
    ends, falls = {3: [0, 1], 6: [2], 11: [0, 3]}, {7: [1], 12: [4]}
    motions = {"motions": [{"path": f"/m/{i}.npz"} for i in range(20)]}
    stores.write(
        store, 16, schema=SCHEMA, ends=ends, falls=falls, complete=False, metadata=motions,
        **options,
    )  # fmt: skip
    with TrajectoryWriter(store, resume=True) as writer:
        for step in range(16, 30):
            rows = helpers.rows(step, N, SCHEMA)
            motion(step, rows)
            writer.add_step(**rows, valid_mask=np.arange(N) > 0)
            if step in (20, 29):
                writer.end_trajectories([1, 2])
    return TrajectoryDataset(store)


def test_the_table_is_what_a_walk_row_by_row_finds(mixed: TrajectoryDataset) -> None:
    columns = mixed.trajectories.columns
    got = zip(*(columns[n].tolist() for n in ("id", "env", "first_step", "last_step", "num_valid")),
              strict=True)  # fmt: skip
    assert list(got) == naive(mixed)
    assert (columns["num_steps"] == columns["last_step"] - columns["first_step"] + 1).all()


def test_how_they_ended(mixed: TrajectoryDataset) -> None:
    ends = {(t.env, t.last_step): t.end for t in mixed.trajectories}
    assert {at for at, end in ends.items() if end == "failed"} == {(1, 7), (4, 12)}
    told = {(0, 3), (1, 3), (2, 6), (0, 11), (3, 11), (1, 20), (2, 20), (1, 29), (2, 29)}
    assert {at for at, end in ends.items() if end == "ended"} == told
    rest = {(e, 15) for e in range(N)} | {(0, 29), (3, 29), (4, 29)}
    assert {at for at, end in ends.items() if end == "interrupted"} == rest
    assert mixed.trajectories.counts() == {"ended": 9, "failed": 2, "interrupted": 8}


def test_motions(mixed: TrajectoryDataset) -> None:
    for t in mixed.trajectories:
        assert t.motion == t.env + 10 * (t.first_step // 12)
    by_name = [mixed.where(motion=name) for name in (3, "3.npz", "3")]
    assert {tuple(t.id for t in found) for found in by_name} == {
        tuple(t.id for t in mixed.trajectories if t.motion == 3)
    }
    with pytest.raises(InputError, match=r"motion 'walk': there is none; the store tells 0\.npz"):
        mixed.where(motion="walk")


def test_one_trajectory_holds_its_rows(mixed: TrajectoryDataset) -> None:
    whole = {name: mixed.read(name) for name in mixed.fields}
    for t in mixed.trajectories:
        assert set(t) == set(mixed.fields)
        for name, rows in t.items():
            want = whole[name][t.first_step : t.last_step + 1, t.env]
            assert rows.shape == want.shape
            helpers.assert_same(np.asarray(rows), want, name)
    longest = max(mixed.trajectories, key=lambda t: t.num_steps)
    rows, want = longest["observations"], np.asarray(longest["observations"])
    for key in (-1, slice(1, -1), slice(None, None, -2), (slice(2), 1), (..., 0), (3, ...), ()):
        helpers.assert_same(np.asarray(rows[key]), np.asarray(want[key]), str(key))
    with pytest.raises(InputError, match="no field 'reward'"):
        longest["reward"]
    assert "reward" not in longest


def test_narrowing(mixed: TrajectoryDataset) -> None:
    long = mixed.where(min_steps=5, max_steps=9)
    want = [t.id for t in mixed.trajectories if 5 <= t.num_steps <= 9]
    assert [t.id for t in long] == want
    assert [t.id for t in long.where(end="failed")] == [
        t.id for t in mixed.trajectories if t.id in want and t.end == "failed"
    ]
    both = mixed.where(end=["failed", "ended"])
    assert len(both) == 11
    assert all(t.num_valid >= 3 for t in mixed.where(min_valid=3))
    assert [t.id for t in mixed.trajectories[2:4]] == [mixed.trajectories[i].id for i in (2, 3)]
    with pytest.raises(InputError, match=r"expected some of terminated, truncated.*got 'fell'"):
        mixed.where(end="fell")
    assert mixed.trajectory(7).id == 7
    with pytest.raises(InputError, match=r"trajectory 999: there is none; the store has ids 0\.\."):
        mixed.trajectory(999)


def test_a_store_that_does_not_say_how(store: str) -> None:
    stores.write(store, 6, ends={2: [0]}, complete=False)
    dataset = TrajectoryDataset(store)
    assert dataset.trajectories.counts() == {"ended": 1, "open": 4}
    assert dataset.trajectories[0].motion is None
    assert "motion" not in dataset.trajectories.columns
    with pytest.raises(InputError, match="no field motion_id"):
        dataset.where(motion=1)


def test_a_writer_at_work(store: str) -> None:
    with helpers.open_writer(store, N, schema=SCHEMA.with_ends(), block_steps=4) as writer:
        helpers.add(writer, *range(6))
        writer.end_trajectories([1], failed=[1])
        writer.commit()
        dataset = TrajectoryDataset(store)
        assert dataset.trajectories.counts() == {"failed": 1, "open": 4}
        helpers.add(writer, *range(6, 9))
        writer.commit()
        assert len(dataset.trajectories) == 5
        dataset.refresh()
        assert dataset.trajectories.counts() == {"failed": 1, "open": 5}


def test_no_steps(store: str) -> None:
    helpers.record(store, 0)
    table = TrajectoryDataset(store).trajectories
    assert (len(table), list(table), table.counts()) == (0, [], {})
    assert "0" in repr(table)
    with pytest.raises(InputError, match="the store has no trajectories"):
        table.by_id(0)


def test_pandas(mixed: TrajectoryDataset) -> None:
    pytest.importorskip("pandas")
    frame = mixed.trajectories.to_pandas()
    assert frame.index.name == "id"
    assert frame.loc[3].env == mixed.trajectory(3).env
    assert list(frame.end) == mixed.trajectories.columns["end"].tolist()


def test_text_and_pickle(mixed: TrajectoryDataset) -> None:
    text = repr(mixed.trajectories)
    assert "num_steps" in text
    assert f"... {len(mixed.trajectories) - 10} more" in text
    again = pickle.loads(pickle.dumps(mixed))
    assert again.trajectories.counts() == mixed.trajectories.counts()


def test_damage_is_told(mixed: TrajectoryDataset) -> None:
    stores.flip(f"{mixed.path}/trajectory_id/c.1.0", 3)
    with pytest.raises(CorruptStoreError):
        TrajectoryDataset(mixed.path).trajectories  # noqa: B018
