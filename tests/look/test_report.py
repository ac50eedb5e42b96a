"""The page of a store: what it says, and in a browser that it can be read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from mosaic_collect import TrajectoryDataset, store_statistics
from mosaic_collect.look.findings import find
from mosaic_collect.look.report import report_page
from mosaic_collect.store.schema import Field, Schema
from tests import helpers
from tests.browsing import CONTRAST
from tests.export import stores
from tests.look.conftest import rich
from tests.reading.test_labelled import texts


def words(dataset: TrajectoryDataset, **options: Any) -> dict[str, str]:
    return {f.text: f.severity for f in find(dataset, store_statistics(dataset), **options)}


class TestFindings:
    def test_of_a_rich_store(self, dataset: TrajectoryDataset) -> None:
        assert words(dataset) == {
            "observations: 1 pair holds NaN or infinity in: vel<b>[2] (0.0028 of all; the first "
            "valid one: step 30, environment 0, trajectory 12)": "error",
            "observations: always 0: pos[1]": "warning",
            "1 of 12 trajectories that ended are one row long": "warning",
            "student_observations: constant: pos[1] in all frames": "warning",
            "action_sigma: all 2 features constant": "note",
            "motion 1 run.npz: 2 of 6 trajectories fail (33%), most after 5 steps": "warning",
            "12 of 24 trajectories have no end": "note",
            "5.6% of all pairs are not valid": "note",
            "the writer waited for the disk 10.0% of the time": "note",
        }

    def test_of_none(self, store: str) -> None:
        def varied(step: int, rows: dict[str, Any]) -> None:
            for value in rows.values():
                value += np.random.default_rng(step).standard_normal(value.shape).astype("f")

        stores.write(store, 20, edit=varied, ends={19: range(4)})
        assert words(TrajectoryDataset(store)) == {}

    def test_all_ends_at_one_frame(self, store: str) -> None:
        stores.write(store, 60, ends={s: range(4) for s in range(9, 60, 10)})
        assert "24 of 24 trajectories that ended have 10 steps" in words(TrajectoryDataset(store))

    def test_falls(self, store: str) -> None:
        schema = helpers.SMALL.with_ends()
        stores.write(store, 10, schema=schema, falls={4: [0, 1], 9: [0]}, ends={9: [2]})
        found = words(TrajectoryDataset(store))
        assert found["3 of 4 trajectories that ended failed"] == "warning"

    def test_what_is_not_complete_or_makes_no_sense(self, store: str) -> None:
        stores.write(store, 0, complete=False, metadata={"terms": 3})
        found = words(TrajectoryDataset(store))
        assert found["the store holds no step"] == "error"
        assert found["the store is not complete: stopped"] == "warning"
        assert "metadata 'terms': expected an object of fields, got 3" in found

    def test_checks(self, dataset: TrajectoryDataset) -> None:
        checks = [
            {"of": "shards", "ok": True, "problems": []},
            {"of": "shards", "ok": False, "problems": ["actions: a checksum", "more"]},
            {"of": "rows", "ok": False, "verdict": "7 rows off"},
        ]
        found = words(dataset, checks=checks)
        assert found["the verification failed: actions: a checksum"] == "error"
        assert found["the replay failed: 7 rows off"] == "error"


def page_of(dataset: TrajectoryDataset) -> str:
    return report_page(dataset, store_statistics(dataset))


def test_the_page(dataset: TrajectoryDataset) -> None:
    page = page_of(dataset)
    found = texts(page)
    for part in ("complete", "360", "(94.4%)", "toy, <script>alert(1)</script>, model_1.pt"):
        assert any(part in text for text in found), part
    assert any("1 run.npz" in text for text in found)
    assert "<script" not in page
    assert "vel<b>" not in page
    for outside in ("http://", "https://", "@import", "src="):
        assert outside not in page.replace("http://www.w3.org/", "")


@pytest.mark.slow
def test_wide_fields_take_no_longer_than_their_width(store: str) -> None:
    """The table of features took time by the square of a field's width."""
    schema = Schema([Field(name="x", dim=200_000)])
    with helpers.open_writer(store, 1, schema) as writer:
        for step in range(3):
            writer.add_step(x=np.full((1, 200_000), step, "f4"))
    statistics = store_statistics(store)
    begun = time.process_time()
    page = report_page(TrajectoryDataset(store), statistics)
    assert time.process_time() - begun < 60
    assert "the first 2,000 of 200,000" in page


def test_pages_of_poor_stores(store: str) -> None:
    for steps in (0, 1):
        path = f"{store}{steps}"
        stores.write(path, steps, complete=False)
        assert texts(page_of(TrajectoryDataset(path)))


def test_the_command(cli, dataset: TrajectoryDataset, tmp_path: Path) -> None:
    done = cli("report", dataset.path)
    output = dataset.path.removesuffix(".zarr") + ".report.html"
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{output}: written")
    checks = tmp_path / "checks.json"
    checks.write_text(json.dumps({"of": "rows", "ok": False, "verdict": "3 rows off"}) + "\n")
    cli("report", dataset.path, "-o", output, "--checks", str(checks), "--trajectory", "4")
    page = Path(output).read_text()
    assert "the replay failed: 3 rows off" in page
    assert "Trajectory 4, step by step" in page
    checks.write_text("no\n")
    cli("report", dataset.path, "--checks", str(checks)).failed("expected one JSON object per line")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(page_of(rich(str(folder / "expert.zarr"))))
    return path


#: Elements that stick out of the page, but for those in a part that scrolls by itself.
OVERFLOW = """() => [...document.querySelectorAll("body *")].filter(e =>
  !e.closest(".wide") && !e.closest(".skip") &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map(e => e.outerHTML)"""


@pytest.mark.slow
class TestInABrowser:
    @pytest.fixture(params=["light", "dark"])
    def open_page(self, browser: Any, written: Path, request: Any) -> Iterator[Any]:
        context = browser.new_context(color_scheme=request.param)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda r: page.asked.append(r.url))
        page.on("console", lambda m: page.said.append(m.text))
        page.goto(written.as_uri())
        yield page
        assert page.asked == [written.as_uri()]
        assert page.said == []
        context.close()

    def test_it_fits_and_is_legible(self, open_page: Any) -> None:
        for summary in open_page.query_selector_all("summary"):
            summary.click()
        for width in (1440, 800, 360):
            open_page.set_viewport_size({"width": width, "height": 900})
            assert open_page.evaluate("document.documentElement.scrollWidth") <= width
            assert open_page.evaluate(OVERFLOW) == []
            boxes = [svg.bounding_box() for svg in open_page.query_selector_all("svg")]
            assert len(boxes) == 10
            assert all(box["width"] > 300 and box["height"] > 100 for box in boxes)
        texts_seen, faint = open_page.evaluate(CONTRAST)
        assert texts_seen > 300
        assert faint == []

    def test_it_opens_at_once(self, open_page: Any, written: Path) -> None:
        """It is loaded, of few bytes and elements, and waits for nothing from elsewhere."""
        assert open_page.evaluate("document.readyState") == "complete"
        assert written.stat().st_size < 1_000_000
        assert open_page.evaluate("document.querySelectorAll('*').length") < 20_000

    def test_clicks_and_keys(self, open_page: Any) -> None:
        open_page.keyboard.press("Tab")
        assert open_page.evaluate("document.activeElement.className") == "skip"
        for link in open_page.query_selector_all("nav a"):
            link.click()
            target = open_page.evaluate("location.hash").removeprefix("#")
            assert open_page.query_selector(f"[id='{target}']").is_visible()
        details = open_page.query_selector("details:last-of-type")
        assert not details.query_selector("table").is_visible()
        details.query_selector("summary").focus()
        open_page.keyboard.press("Enter")
        assert details.query_selector("table").is_visible()

    def test_for_screen_readers(self, open_page: Any) -> None:
        count = open_page.evaluate
        assert count("document.documentElement.lang") == "en"
        assert count("document.querySelectorAll('h1').length") == 1
        assert count("[...document.querySelectorAll('svg')].every(s => s.ariaLabel)")
        assert count(
            "[...document.querySelectorAll('thead')].every(t => t.closest('table').caption)"
        )
        assert count("[...document.querySelectorAll('.wide')].every(w => w.tabIndex === 0)")
        ids = count("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))

    def test_in_print(self, open_page: Any) -> None:
        open_page.emulate_media(media="print")
        open_page.set_viewport_size({"width": 700, "height": 900})
        assert not open_page.query_selector("nav").is_visible()
        paper = "getComputedStyle(document.body).backgroundColor"
        assert open_page.evaluate(paper) == "rgb(255, 255, 255)"
        inside = "e => e.getBoundingClientRect().right <= 701"
        assert open_page.evaluate(f"[...document.querySelectorAll('svg, table')].every({inside})")
