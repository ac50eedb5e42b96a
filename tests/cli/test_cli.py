"""What all commands share: help, exit codes, errors in one line."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import mosaic_collect
from mosaic_collect.cli import help_text, parse
from mosaic_collect.commands import COMMANDS, command
from mosaic_collect.commands.options import example_of, parser_of
from tests import helpers
from tests.export import stores

NAMES = list(COMMANDS)


def test_the_commands() -> None:
    core = ["collect", "copy", "demo", "export", "import", "inspect", "store", "verify"]
    more = ["completion", "plot", "replay", "report", "stats", "watch"]
    assert sorted(NAMES) == sorted(core + more)


def test_the_help_of_all_is_shown_on_demand_and_where_no_command_is_given(cli) -> None:
    asked, bare = cli("--help"), cli()
    assert (asked.code, asked.out) == (0, help_text() + "\n")
    assert (bare.code, bare.out, bare.err) == (2, "", asked.out)
    assert all(f"\n  {name} " in asked.out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_shows_an_example_that_parses(cli, name: str) -> None:
    run = command(name)
    done = cli(name, "--help")
    assert done.code == 0
    example = done.out.split("\nexample:\n")[1].replace("\\\n", "")
    words = example_of(run).split()
    assert example.split() == words
    assert words[:2] == ["mosaic-collect", name]
    assert parse(words[1:])[1]


@pytest.mark.parametrize("width", ["60", "120"])
@pytest.mark.parametrize("name", [*NAMES, None])
def test_help_is_wrapped(cli, monkeypatch, name: str | None, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    fixed = {"mosaic-collect COMMAND --help shows the options of a command."}
    out = cli(*([name] if name else []), "--help").out
    words = [
        line
        for line in out.split("\nexample:\n")[0].splitlines()
        if "usage:" not in line and line not in fixed
    ]
    assert max(map(len, words)) <= int(width)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_a_phrase_with_its_default(name: str) -> None:
    for action in parser_of(name, command(name))._actions[1:]:
        words = action.help or ""
        assert len(words.split()) > 1 or action.choices, action.dest
        assert not words.startswith(("of ", "as ", "what ", "which ", "whose ")), words
        of_collect = name == "collect" and action.dest in ("task", "checkpoint", "output")
        required = action.required or not action.option_strings or of_collect
        assert required or "default" in words, (action.dest, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("inspct", "x"),
            "unknown command inspct; did you mean inspect? (see mosaic-collect --help)",
        ),
        (("--versoin",), "unknown option --versoin; did you mean --version?"),
        (("collect", "--num_env", "5"), "unknown option --num_env; did you mean --num-envs?"),
        (("collect", "--num-en=5"), "did you mean --num-envs? (see mosaic-collect collect --help)"),
        (("stats", "a.zarr", "--feilds", "b"), "unknown option --feilds; did you mean --fields?"),
        (
            ("copy", "a", "b", "c.zarr"),
            "unexpected argument c.zarr (see mosaic-collect copy -",
        ),
        (("inspect", "a", "--zzz"), "unknown option --zzz (see mosaic-collect inspect --help)"),
    ],
)
def test_unknown_words_and_a_suggestion(cli, arguments, words: str) -> None:
    cli(*arguments).failed(words)


def test_underscores_stand_for_hyphens() -> None:
    given = ["--num_envs", "5", "--max_steps=7", "--no_student_noise", "--launcher=--viz kit_x"]
    assert parse(["collect", *given])[1] == {
        "num_envs": 5,
        "max_steps": 7,
        "student_noise": False,
        "launcher": "--viz kit_x",
    }


@pytest.mark.parametrize(
    ("words", "numbers", "places"),
    [
        ("replay --trajectory 3 a.zarr -o x.mp4", [3], ["a.zarr"]),
        (
            "replay a.zarr --trajectory 3 4 b.zarr 5.zarr -o x",
            [3, 4],
            ["a.zarr", "b.zarr", "5.zarr"],
        ),
        ("replay -o x --trajectory 3 -- 4", [3], ["4"]),
    ],
)
def test_a_list_of_numbers_ends_at_a_text(
    words: str, numbers: list[int], places: list[str]
) -> None:
    """argparse takes all that is behind such an option for numbers."""
    _, options = parse(words.split())
    assert (options["trajectory"], options["store"]) == (numbers, places)


def fail(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let a command raise an error, whatever its options."""
    run = command(name)

    @functools.wraps(run)
    def failing(**options: object) -> bool:
        raise error

    monkeypatch.setattr(sys.modules[COMMANDS[name]], run.__name__, failing)


def test_an_unexpected_error_is_no_answer(cli, monkeypatch, tmp_path) -> None:
    fail(monkeypatch, "inspect", ZeroDivisionError("of ours"))
    done = cli("inspect", str(tmp_path))
    assert done.code == 70
    assert "ZeroDivisionError: of ours" in done.err
    assert done.err.endswith("mosaic-collect inspect: this is a bug in mosaic_collect\n")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(cli, tmp_path, shell: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    done = cli("completion", shell)
    assert done.code == 0
    script = tmp_path / "script"
    script.write_text(done.out.partition("bashcompinit && bashcompinit\n")[2] or done.out)

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("mosaic-collect", *words))
        code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _mosaic_collect"
        run = ["bash", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"']
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()

    assert complete("in") == ["inspect"]
    assert complete("export", "--allow-n") == ["--allow-nonfinite"]
    assert complete("plot", "s.zarr", "--theme", "") == ["light", "dark"]
    assert complete("collect", "--sim", "i") == ["isaaclab"]


def test_completion_of_fish_names_every_command(cli) -> None:
    out = cli("completion", "fish").out
    for name in NAMES:
        assert f"complete -c mosaic-collect -n __fish_use_subcommand -f -a {name} -d " in out
    assert "complete -c mosaic-collect -n '__fish_seen_subcommand_from plot' -l theme -xa " in out


def test_version(cli) -> None:
    done = cli("--version")
    assert (done.code, done.out) == (0, f"mosaic-collect {mosaic_collect.__version__}\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *(
            (line, "(see mosaic-collect")
            for line in (
                *("dance", "inspect", "export", "import", "import e.npy", "verify"),
                *("export s.zarr --layout dense", "export s.zarr --max-pairs many"),
                "collect --max-steps many",
            )
        ),
        *(
            (line, "nothing")
            for line in (
                *("inspect nothing.zarr", "inspect nothing.npy", "import nothing.npy e.zarr"),
                *("export nothing.zarr", "verify nothing.zarr"),
            )
        ),
        *((f"{name} folder", "no store") for name in ("inspect", "export", "verify")),
    ],
)
def test_what_cannot_be_done_is_2(cli, tmp_path, monkeypatch, line: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    cli(*line.split()).failed(words)


def test_verbose_shows_the_traceback(cli, tmp_path, caplog) -> None:
    done = cli("verify", "--verbose", str(tmp_path / "nothing.zarr"))
    assert done.code == 2
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_is_130(cli, monkeypatch, name: str) -> None:
    fail(monkeypatch, name, KeyboardInterrupt())
    done = cli(*example_of(command(name)).split()[1:])
    assert done.code == 130
    assert done.err == f"mosaic-collect {name}: interrupted\n"


def test_without_mjlab_collect_names_the_extra(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mjlab", None)  # as if it were not installed
    done = cli(
        *["collect", "--task", "T", "--checkpoint", "c.pt", "--max-steps", "1", "--output", "out"]
    )
    words = "collecting in mjlab needs it: pip install 'mosaic-collect[mjlab]'"
    assert (done.code, done.err) == (2, f"mosaic-collect collect: {words}\n")
    assert not os.path.exists("out")


@pytest.mark.skipif(find_spec("mjlab") is not None, reason="mjlab is installed")
def test_without_mjlab_the_demo_names_the_extra(cli, tmp_path) -> None:
    cli("demo", "--output", str(tmp_path / "demo")).failed("mosaic-collect[mjlab]")
    assert not (tmp_path / "demo").exists()


def test_as_a_process(store: str) -> None:
    stores.write(store, 4)
    done = helpers.run_cli("verify", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok" in done.stdout
    stores.flip(os.path.join(store, "actions", "c.0.0.0"), 3)
    done = helpers.run_cli("verify", store)
    assert (done.returncode, done.stderr) == (1, "")
    done = helpers.run_cli("export", store)
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
    process.wait(timeout=300)
    assert b"Traceback" not in err


def test_the_console_script_is_main() -> None:
    project = (Path(helpers.REPO) / "pyproject.toml").read_text()
    assert '\n[project.scripts]\nmosaic-collect = "mosaic_collect.cli:main"\n' in project
    script = Path(sys.executable).parent / "mosaic-collect"
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mosaic-collect {mosaic_collect.__version__}\n"


def test_no_command_needs_torch_or_zarr_until_it_does() -> None:
    code = (
        "import sys\nfrom mosaic_collect.cli import help_text\nhelp_text()\n"
        "print([m for m in ('torch', 'zarr', 'xarray', 'mjlab', 'rsl_rl') if m in sys.modules])"
    )
    assert helpers.run_python(code).stdout == "[]\n"


@pytest.mark.parametrize("command", ["verify", "stats", "export"])
def test_without_memory_it_fails_in_one_line_and_without_threads_it_is_done(
    cli, store: str, monkeypatch, command: str
) -> None:
    helpers.record(store, 9)
    words = (command, store, *([store + ".npy"] if command == "export" else []))

    def refuse(error: Exception) -> Callable[..., None]:
        def refusing(*args: object, **options: object) -> None:
            raise error

        return refusing

    with monkeypatch.context() as patch:
        no_memory = refuse(MemoryError())
        patch.setattr("mosaic_collect.store.shard.ShardReader.__init__", no_memory)
        done = cli(*words)
        assert (done.code, done.err) == (2, f"mosaic-collect {command}: not enough memory\n")
    monkeypatch.setattr(threading.Thread, "start", refuse(RuntimeError("can't start new thread")))
    done = cli(*words)
    assert (done.code, "Traceback" in done.err) == (0, False)
