"""Ranks in mjlab: real physics, two motions, whoever comes takes what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset, verify_store
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError, StoreExistsError, StoreMismatchError
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, ROWS, TASK, Case, make_case

pytestmark = mjlab_case.MARKS


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("mjlab"))


@pytest.fixture
def run(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    from mosaic_collect.adapters.mjlab.collect import run_collect

    def of_rank(rank: int, world: int, **changes: Any) -> Any:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world)):
            monkeypatch.setenv(name, str(value))
        options = {"distributed": True, "passes": 1, "num_envs": 1, **changes}
        return run_collect(case.options("ranks", **options))

    return of_rank


def test_ranks_share_the_motions(case: Case, run: Callable[..., Any]) -> None:
    folder = case.store("ranks")
    stopped = run(1, 2, max_steps=2)
    assert (stopped.num_steps, stopped.completed) == (2, 0)
    assert stopped.store == f"{folder}/rank-00001"
    with pytest.raises(StoreMismatchError, match="observations: expected"):
        run(0, 2, student_history=0)
    with pytest.raises(StoreExistsError, match="rank-00001 exists"):
        run(1, 2)
    alone = run(0, 2)
    assert (alone.num_steps, alone.completed, alone.already_complete) == (sum(ROWS), 2, False)
    late = run(1, 3, resume=True)
    assert (late.num_steps, late.already_complete) == (2, True)
    never = run(2, 3, resume=True)
    assert (never.num_steps, never.already_complete) == (0, True)
    dataset = TrajectoryDataset(folder)
    assert dataset.status == "complete"
    assert sorted(t.motion for t in dataset.where(end="truncated")) == [0, 1]
    assert [part.metadata["ranks"] for part in dataset.parts] == [[0, 2], [1, 2]]
    assert verify_store(folder).ok


def test_what_makes_no_sense(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mosaic_collect.adapters.mjlab.collect import run_collect

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="distributed: expected torchrun's"):
        run_collect(case.options("none", distributed=True))
    with pytest.raises(InputError, match="take_over: expected only with distributed"):
        run_collect(case.options("none", take_over=[1]))
    with pytest.raises(InputError, match="take_over: expected only with distributed"):
        run_collect(case.options("none", motion=None, distributed=True, take_over=[1]))
    assert not (case.folder / "none.zarr").exists()


def test_the_command_line(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    command = ["collect", "--task", TASK, "--checkpoint", EXPERT, "--motion", case.motions]
    assert main([*command, "--max-steps", "5", "--output", "x", "--distributed"]) == 2
    assert "--distributed: expected torchrun's RANK" in capsys.readouterr().err
