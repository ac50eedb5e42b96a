"""What all commands share: help, exit codes, errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mosaic_collect
from mosaic_collect.commands import COMMANDS
from tests import helpers
from tests.export import stores

NAMES = [command.NAME for command in COMMANDS]
WITHOUT_MJLAB = pytest.mark.skipif(find_spec("mjlab") is not None, reason="mjlab is installed")


def test_the_commands() -> None:
    core = ["collect", "copy", "demo", "export", "import", "inspect", "verify"]
    assert sorted(NAMES) == sorted([*core, "plot", "replay", "report", "stats", "watch"])


def test_help_lists_the_commands(cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for name in NAMES:
        assert name in done.out


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_of_each_shows_an_example_that_parses(cli, command) -> None:
    done = cli(command.NAME, "--help")
    assert done.code == 0
    assert f"example:\n  {command.EXAMPLE}" in done.out
    words = command.EXAMPLE.split()
    assert words[:2] == ["mosaic-collect", command.NAME]
    from mosaic_collect.cli import build_parser

    assert build_parser().parse_args(words[1:]).run is command.run


def test_version(cli) -> None:
    done = cli("--version")
    assert (done.code, done.out) == (0, f"mosaic-collect {mosaic_collect.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("inspect",),
        ("export",),
        ("import",),
        ("import", "e.npy"),
        ("export", "s.zarr", "--layout", "dense"),
        ("export", "s.zarr", "--max-pairs", "many"),
        ("verify",),
        ("collect", "--task", "T"),
    ],
)
def test_bad_usage_is_2(cli, arguments: tuple[str, ...]) -> None:
    cli(*arguments).failed("(see mosaic-collect")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "nothing.zarr"),
        ("inspect", "nothing.npy"),
        ("import", "nothing.npy", "e.zarr"),
        ("export", "nothing.zarr"),
        ("verify", "nothing.zarr"),
    ],
)
def test_no_such_file_is_2(cli, tmp_path, monkeypatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    cli(*arguments).failed("nothing")


@pytest.mark.parametrize("command", ["inspect", "export", "verify"])
def test_no_store_is_2(cli, tmp_path, command: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    cli(command, str(tmp_path / "folder")).failed("no store")


def test_verbose_shows_the_traceback(cli, tmp_path, caplog) -> None:
    done = cli("verify", "--verbose", str(tmp_path / "nothing.zarr"))
    assert done.code == 2
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_is_130(cli, monkeypatch, name: str) -> None:
    def interrupted(arguments) -> None:
        raise KeyboardInterrupt

    command = next(c for c in COMMANDS if name == c.NAME)
    monkeypatch.setattr(command, "run", interrupted)
    done = cli(*command.EXAMPLE.split()[1:])
    assert done.code == 130
    assert done.err == f"mosaic-collect {name}: interrupted\n"


@WITHOUT_MJLAB
def test_collect_without_mjlab_names_the_extra(cli) -> None:
    arguments = ["--task", "T", "--checkpoint", "c.pt", "--max-steps", "1", "--output", "x.zarr"]
    cli("collect", *arguments).failed("mosaic-collect[mjlab]")
    assert not os.path.exists("x.zarr")


@WITHOUT_MJLAB
def test_demo_without_mjlab_names_the_extra(cli, tmp_path) -> None:
    cli("demo", "--output", str(tmp_path / "demo")).failed("mosaic-collect[mjlab]")
    assert not (tmp_path / "demo").exists()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mosaic_collect", *arguments],
        cwd=helpers.REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_python_can_run_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"mosaic-collect {mosaic_collect.__version__}\n")


def test_as_a_process(store: str) -> None:
    stores.write(store, 4)
    done = run("verify", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok" in done.stdout
    stores.flip(os.path.join(store, "actions", "c.0.0.0"), 3)
    done = run("verify", store)
    assert (done.returncode, done.stderr) == (1, "")
    done = run("export", store)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_pipe_that_is_closed_is_no_traceback(store: str) -> None:
    """Such as ``mosaic-collect inspect ... | head -1``."""
    stores.write(store, 4)
    process = subprocess.Popen(
        [sys.executable, "-m", "mosaic_collect", "inspect", *[store] * 200],
        cwd=helpers.REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert b"Traceback" not in err


def test_the_console_script_is_main() -> None:
    project = (Path(helpers.REPO) / "pyproject.toml").read_text()
    assert '\n[project.scripts]\nmosaic-collect = "mosaic_collect.cli:main"\n' in project


def test_the_installed_console_script(tmp_path) -> None:
    script = Path(sys.executable).parent / "mosaic-collect"
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mosaic-collect {mosaic_collect.__version__}\n"


def test_no_command_needs_torch_or_zarr_until_it_does() -> None:
    code = (
        "import sys\nfrom mosaic_collect.cli import build_parser\nbuild_parser()\n"
        "print([m for m in ('torch', 'zarr', 'xarray', 'mjlab', 'rsl_rl') if m in sys.modules])"
    )
    assert helpers.run_python(code).stdout == "[]\n"
