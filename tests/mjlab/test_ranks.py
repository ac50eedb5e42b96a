"""Ranks in mjlab: real physics, two motions, whoever comes takes what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset, verify_store
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError, StoreExistsError, StoreMismatchError
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import ROWS, Case

pytestmark = mjlab_case.MARKS


@pytest.fixture
def ranked(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def of_rank(rank: int, world: int, **changes: Any) -> Any:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world)):
            monkeypatch.setenv(name, str(value))
        options = {"distributed": True, "passes": 1, "num_envs": 1, **changes}
        return case.run("ranks", **options)

    return of_rank


def test_ranks_share_the_motions(case: Case, ranked: Callable[..., Any]) -> None:
    folder = case.store("ranks")
    stopped = ranked(1, 2, max_steps=2)
    assert (stopped.num_steps, stopped.completed) == (2, 0)
    assert stopped.store == f"{folder}/rank-00001"
    with pytest.raises(StoreMismatchError, match="observations: expected"):
        ranked(0, 2, student_history=0)
    with pytest.raises(StoreExistsError, match="rank-00001 exists"):
        ranked(1, 2)
    alone = ranked(0, 2)
    assert (alone.num_steps, alone.completed, alone.already_complete) == (sum(ROWS), 2, False)
    late = ranked(1, 3, resume=True)
    assert (late.num_steps, late.already_complete) == (2, True)
    never = ranked(2, 3, resume=True)
    assert (never.num_steps, never.already_complete) == (0, True)
    dataset = TrajectoryDataset(folder)
    assert dataset.status == "complete"
    assert sorted(t.motion for t in dataset.where(end="truncated")) == [0, 1]
    assert [part.metadata["ranks"] for part in dataset.parts] == [[0, 2], [1, 2]]
    assert verify_store(folder).ok


def test_without_torchruns_variables(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="distributed: expected torchrun's"):
        case.run("none", distributed=True)
    assert main(case.command("none", "--max-steps", "5", "--distributed")) == 2
    assert "--distributed: expected torchrun's RANK" in capsys.readouterr().err
    assert not (case.folder / "none.zarr").exists()
