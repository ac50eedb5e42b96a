"""All ways of looking work on a store in object storage, while it is written and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from tests import helpers
from tests.look.conftest import rich


@pytest.mark.slow
def test_each_command(
    s3: str, store: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say the same as about a store on a disk; a file is written where it is named."""
    rich(s3)
    rich(store)
    monkeypatch.chdir(tmp_path)
    there, here = (json.loads(cli("stats", place, "--json").out) for place in (s3, store))
    assert there["fields"] == here["fields"]
    assert there["num_valid"] == here["num_valid"] == 340
    cli("stats", s3, "-o", "expert.stats.json")
    for command in ("plot", "report"):
        cli(command, s3).failed(f"expected a name, for {s3} is in object storage")
    cli("plot", s3, "-o", "expert", "--format", "svg")
    cli("report", s3, "-o", "expert.report.html")
    made = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"expert.stats.json", "expert.report.html", "expert.timeline.svg"} <= made
    page = (tmp_path / "expert.report.html").read_text()
    assert "1 of 12 trajectories that ended are one row long" in page
    assert f"{s3}: complete" in cli("watch", s3, "--once").out.replace("\x1b[K", "")
    assert "60 x 6" in cli("inspect", s3).out


@pytest.mark.slow
def test_watch_while_it_is_written(s3: str, cli: Any) -> None:
    with helpers.open_writer(s3, 4, helpers.SMALL, block_steps=5) as writer:
        helpers.add(writer, *range(12))
        writer.commit()
        said = cli("watch", s3, "--once").out
    assert f"{s3}: collecting" in said
    assert "12 steps" in said
