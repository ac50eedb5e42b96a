"""Transitions, held against a reference that walks each environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import FieldNotFoundError
from tests import helpers

FIELDS = (
    Field("observations", dim=3),
    Field("actions", dim=2),
    Field("reward"),
    Field("observations_critic", dim=2),
)
FINALS = (Field("final_observations", dim=3), Field("final_observations_critic", dim=2))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("finals", [FINALS, FINALS[:1], ()])
@pytest.mark.parametrize("seed", range(4))
def test_every_valid_pair_comes_once_with_what_follows(
    tmp_path: Any, seed: int, finals: tuple[Field, ...]
) -> None:
    rng = np.random.default_rng(seed)
    schema = Schema((*FIELDS, *finals)).with_ends()
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        num_envs = int(rng.integers(1, 9))
        for run in range(2):
            opening = {"resume": True} if run else {}
            with helpers.open_writer(path, num_envs, schema, 4, **opening) as writer:
                for _ in range(int(rng.integers(2, 15))):
                    rows = {
                        f.name: rng.random((num_envs, *f.row_shape), np.float32)
                        for f in (*FIELDS, *finals)
                    }
                    writer.add_step(**rows, valid_mask=rng.random(num_envs) < 0.8)
                    writer.end_trajectories(rng.random(num_envs) < 0.3)
    want = []
    for path in paths:
        one = TrajectoryDataset(path)
        read = {name: one.read(name) for name in one.fields}
        mask, ids, ends = (read[n] for n in ("valid_mask", "trajectory_id", "trajectory_end"))
        for step, env in np.argwhere(mask).tolist():
            at, after = (step, env), (step + 1, env)
            follows = step + 1 < len(ids) and mask[after] and ids[after] == ids[at]
            has_next, following = follows, [np.zeros(3, np.float32), np.zeros(2, np.float32)]
            if follows:
                following = [read["observations"][after], read["observations_critic"][after]]
            elif len(finals) == 2 and ends[at]:
                has_next = True
                following = [read[f.name][at] for f in finals]
            want.append(
                [
                    *(read[f.name][at].tolist() for f in FIELDS),
                    *(row.tolist() for row in following),
                    bool(has_next),
                ]
            )
    got = []
    names = [f.name for f in FIELDS]
    names += ["next_observations", "next_observations_critic", "has_next"]
    for some in TrajectoryDataset(paths).transitions():
        assert {*names, "trajectory_end", "trajectory_id", "valid_mask"} == set(some)
        assert some["valid_mask"].all()
        got += [list(row) for row in zip(*(some[n].tolist() for n in names), strict=True)]
    assert sorted(got) == sorted(want)
    assert 0 < sum(row[-1] for row in got) < len(got)


def test_fields_can_be_named(store: str) -> None:
    dataset = helpers.record(store, 7, masks=True)
    parts = list(dataset.transitions(["actions"], ["actions"]))
    assert all(set(part) == {"actions", "next_actions", "has_next"} for part in parts)
    assert sum(len(part["actions"]) for part in parts) == dataset.state.num_valid
    for named in ({"fields": ["nope"]}, {"observations": ["nope"]}):
        with pytest.raises(FieldNotFoundError, match="nope"):
            dataset.transitions(**named)
