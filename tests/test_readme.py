"""Every command and example of the documentation is run.

- README.md, then docs/*.md in the order of the site: blocks fenced as ``python`` share one
  namespace and one folder; lines of blocks fenced as ``bash`` are run in that folder. ``text`` and
  ``yaml`` are for reading only.
- The two scripts are special: ``scripts/test.sh`` cannot be run by what it runs, and
  ``scripts/demo.sh`` makes ``.venv`` and takes minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import helpers

ROOT = Path(helpers.REPO)
README = ROOT / "README.md"
API = ROOT / "docs" / "api.md"
_NAV = re.findall(r"^ .*\b(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
DOCS = [ROOT / "docs" / name for name in _NAV if (ROOT / "docs" / name).exists()]
_FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1[ \t]*$", re.M | re.S)
_TEST_SH, _DEMO_SH = "bash scripts/test.sh", "bash scripts/demo.sh"


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its text."""

    place: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands of a shell block: continued lines joined, comments and empty lines left out."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        place = f"{path.relative_to(ROOT)}:{line}"
        found.append(Block(place, match.group(2).strip(), match.group(3)))
    return found


def commands(path: Path) -> list[str]:
    """All shell commands of a document, without comments."""
    shell = [block for block in blocks(path) if block.language in ("bash", "sh", "console")]
    return [shlex.join(shlex.split(x, comments=True)) for block in shell for x in block.lines]


def api_examples(in_simulator: bool) -> list[tuple[Block, str | None]]:
    """Examples of docs/api.md, in order, with the output that stands behind them.

    Args:
        in_simulator: The examples of the section about collections, or all others.
    """
    found = blocks(API)
    start, end = (API.read_text().count("\n", 0, API.read_text().index(f"## {name}")) for name in
                  ("Collect", "Read"))  # fmt: skip
    chosen = []
    for block, then in zip(found, [*found[1:], None], strict=True):
        line = int(block.place.rpartition(":")[2])
        if block.language == "python" and (start < line < end) == in_simulator:
            output = then.text if then is not None and then.language == "text" else ""
            chosen.append((block, output))
    return chosen


def run_api_examples(in_simulator: bool, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block, output in api_examples(in_simulator):
        capsys.readouterr()
        run_block(block, Path.cwd(), {}, names)
        assert capsys.readouterr().out == output, block.place


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``mosaic-collect`` is this interpreter's."""
    script = Path(sys.executable).parent / "mosaic-collect"
    if not script.exists():
        script = tmp_path / "bin" / "mosaic-collect"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mosaic_collect "$@"\n')
        script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONPATH": helpers.REPO, "PYTHONWARNINGS": "error"}


def run_line(line: str, place: str, folder: Path, environment: dict[str, str]) -> None:
    if line.startswith((_TEST_SH, _DEMO_SH)):
        return  # tests of their own
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{place}: {line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, f"{place}: {line}\n{done.stderr}"


def run_block(block: Block, folder: Path, environment: dict[str, str], names: dict) -> None:
    if block.language == "python":
        # Lines of a traceback are those of the document.
        line = int(block.place.rsplit(":", 1)[1])
        source = "\n" * line + block.text
        exec(compile(source, str(ROOT / block.place.rsplit(":", 1)[0]), "exec"), names)
    elif block.language == "bash":
        for line in block.lines:
            run_line(line, block.place, folder, environment)


def test_all_examples_in_order(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: dict[str, str]
) -> None:
    for package in ("torch", "zarr", "xarray", "h5py", "pyarrow", "duckdb", "datasets"):
        pytest.importorskip(package)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for path in (README, *DOCS):
        for block in blocks(path):
            run_block(block, folder, shell, names)


def test_the_examples_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("torch", "distributed", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    run_api_examples(False, capsys)


def test_every_entry_of_the_reference_has_an_example() -> None:
    parts = re.split(r"^::: |^## ", API.read_text(), flags=re.M)[1:]
    without = [p.split("\n")[0] for p in parts if "```python" not in p]
    assert [n for n in without if n.startswith("mosaic_collect") and not n.endswith("Error")] == []


def test_every_block_says_what_it_is() -> None:
    """A block of another or of no language would be left out of these tests unnoticed."""
    assert {*DOCS, API} == {*(ROOT / "docs").glob("*.md")}, "the site puts the API in by itself"
    for path in (README, *DOCS, API):
        for block in blocks(path):
            assert block.language in ("python", "bash", "text", "yaml", "json"), block.place
    assert any(block.language == "python" for block in blocks(README))
    assert any(block.language == "bash" for block in blocks(README))


def test_commands_for_reading_only_parse_at_least() -> None:
    """Commands that need a GPU, a checkpoint or an hour: their options must be right."""
    from mosaic_collect.cli import parse

    for path in (README, *DOCS):
        for block in blocks(path):
            if block.language not in ("text", "bash", "sh", "console"):
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True) if "mosaic-collect " in line else []
                if words[:1] != ["mosaic-collect"] or words[1:] in (["--version"], ["--help"]):
                    continue
                assert parse(words[1:]), f"{block.place}: {line}"


def test_figures_of_the_front_door_are_those_of_the_benchmarks() -> None:
    def rows(text: str) -> list[set[str]]:
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        return [{cell.strip() for cell in line.strip("|").split("|")} for line in lines]

    measured = rows((ROOT / "docs" / "benchmarks.md").read_text())
    told = rows(README.read_text().split("## Beside its peers")[1].split("\n## ")[0])[2:]
    assert len(told) >= 4
    for row in told:
        assert any({*row, "disk"} <= other for other in measured), row


def test_the_package_is_installed_from_a_checkout() -> None:
    """It is in no index: by its name pip finds it only where it is installed already."""
    for path in (README, API, *DOCS, *(ROOT / "docs").rglob("*.ipynb")):
        assert "pip install 'mosaic-collect" not in path.read_text(), path.name
    assert "pip install .  " in README.read_text()


def test_links_lead_somewhere() -> None:
    for path in (README, *DOCS):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_paths_that_contributors_are_sent_to_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:mosaic_collect|tests|scripts|examples|docs)/[\w/.]+)`", text)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tests_that_keep_the_first_use_are_there() -> None:
    named = re.findall(
        r"`(tests/\S+?\.py)(?:::(?:\w+::)?(\w+))?`", (ROOT / "docs" / "first_use.md").read_text()
    )
    assert len(named) >= 27
    for path, name in named:
        assert f"def {name}" in (ROOT / path).read_text() or not name, f"{path}::{name}"


def test_the_documented_test_command_is_what_ci_runs() -> None:
    assert _TEST_SH in commands(README)
    ci = (ROOT / ".ci" / "run").read_text()
    assert _TEST_SH in [line.strip() for line in ci.splitlines()]
    assert (ROOT / "scripts" / "test.sh").exists()


def test_the_demo_is_documented() -> None:
    assert _DEMO_SH in commands(README)
    assert (ROOT / "scripts" / "demo.sh").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("mjlab")
def test_the_demo_script() -> None:
    if not os.environ.get("MOSAIC_COLLECT_TEST_SH"):
        pytest.skip("scripts/demo.sh makes .venv: run by scripts/test.sh, which made it already")
    done = subprocess.run(
        ["bash", "scripts/demo.sh", "--num-envs", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "all proven" in done.stdout
    assert (ROOT / "out" / "demo" / "g1.npy").exists()
