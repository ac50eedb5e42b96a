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
    assert f"<td>{pairs}, of them {valid} valid" in data._repr_html_()
    assert "19 x up to 4 x 3" in data._repr_html_()


def test_watch_names_each_rank(folder: str, cli: Any) -> None:
    said = cli("watch", folder, "--once").out
    ranks = [f"{folder}/rank-{rank:05d}" for rank in RAGGED]
    assert [line.split(": ")[0] for line in said.splitlines()] == ranks


@pytest.mark.parametrize(("rank", "envs"), [("", "2 to 4"), ("/rank-00001", "4")])
def test_a_report_and_a_chart_of_all_ranks_or_of_one(
    folder: str, cli: Any, tmp_path: Path, rank: str, envs: str
) -> None:
    assert cli("report", folder + rank, "-o", str(tmp_path / "made.html")).code == 0
    assert f"<small>x {envs} envs" in (tmp_path / "made.html").read_text()
    assert cli("plot", folder + rank, "-o", str(tmp_path / "made"), "--only", "timeline").code == 0
    assert (tmp_path / "made.timeline.png").exists()


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
