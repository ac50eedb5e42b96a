"""A folder of ranks is looked at as one store, whose ranks lie one behind the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


from mosaic_collect import TrajectoryDataset, TrajectoryWriter, store_statistics
from mosaic_collect.look.charts import Timeline
from mosaic_collect.look.report import report_page
from mosaic_collect.look.watch import Watcher
from mosaic_collect.store.view import StoreView
from tests import helpers
from tests.ranks import MOVING, RAGGED, record_ranks


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Of three ranks: 5 steps of 3 environments, 6 of 4, 8 of 2; two of each are valid."""
    return record_ranks(tmp_path / "expert", RAGGED, schema=MOVING.with_ends())


def test_the_timeline_shows_where_ranks_begin(folder: str) -> None:
    found = Timeline.of(TrajectoryDataset(folder))
    assert [*found.runs] == [5, 11]


def test_shares_are_of_the_environments_that_there_are(tmp_path: Path) -> None:
    folder = str(tmp_path / "expert")
    for rank, (steps, num_envs) in RAGGED.items():
        with TrajectoryWriter(folder, MOVING, num_envs, rank=rank, world_size=4) as writer:
            for step in range(steps):
                writer.add_step(**helpers.rows(step, num_envs, MOVING))
    for most_bins in (1, 3, 600):
        found = Timeline.of(TrajectoryDataset(folder), most_bins=most_bins)
        assert found.valid.tolist() == [1.0] * len(found.valid)
        assert found.endless.tolist() == [1.0] * len(found.valid)


def test_the_report_counts_what_is_there(folder: str) -> None:
    data = TrajectoryDataset(folder)
    page = report_page(data, store_statistics(data), None, [])
    pairs, valid = 5 * 3 + 6 * 4 + 8 * 2, 2 * (5 + 6 + 8)
    assert f"<dd>{pairs} <small>{valid} valid ({valid / pairs:.1%})" in page
    assert "<small>x 2 to 4 envs" in page
    assert f"<td>{pairs}, of them {valid} valid" in data._repr_html_()
    assert "19 x up to 4 x 3" in data._repr_html_()


def test_the_commands(folder: str, cli: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert cli("report", folder, "-o", f"{made}.html").code == 0
    assert cli("plot", folder, "-o", str(made), "--format", "svg").code == 0
    assert cli("stats", folder, "-o", f"{made}.json").code == 0
    assert (tmp_path / "made.timeline.svg").exists()
    said = cli("watch", folder, "--once").out
    assert [line.split(": ")[0] for line in said.splitlines()] == [
        f"{folder}/rank-{rank:05d}" for rank in RAGGED
    ]


def test_a_rank_is_a_store_of_its_own(folder: str, cli: Any, tmp_path: Path) -> None:
    one = f"{folder}/rank-00001"
    assert cli("report", one, "-o", str(tmp_path / "one.html")).code == 0
    assert "<small>x 4 envs" in (tmp_path / "one.html").read_text()


def test_the_first_look_asks_for_no_shard(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In object storage each would be a request."""
    asked: list[int] = []
    find = StoreView.find

    def counted(view: StoreView, field: str, block: int) -> Any:
        asked.append(block)
        return find(view, field, block)

    monkeypatch.setattr(StoreView, "find", counted)
    with helpers.open_writer(store, 3, block_steps=4) as writer:
        helpers.add(writer, *range(20))
        writer.commit()
        watcher = Watcher(TrajectoryDataset(store))
        first = watcher.look().stored_nbytes
        assert asked == []
        helpers.add(writer, *range(20, 24))
        writer.commit()
        assert watcher.look().stored_nbytes > first
    assert {*asked} == {3, 4, 5}
