"""``mosaic-collect collect``: what it prints, and what ``--resume`` takes from the store."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Schema, StoreMismatchError, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.commands.collect import COMMAND_LINE, tell


@dataclass(frozen=True, kw_only=True)
class ToyOptions(RecordOptions):
    """Of a simulator without physics."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ToyOptions]:
    """In mjlab's place a toy, which adds two steps to its store; the options that it was given."""
    seen: list[ToyOptions] = []

    def run_collect(options: ToyOptions, on_step: Any, on_end: Any) -> Any:
        options.check()
        seen.append(options)
        known = TrajectoryDataset(options.output) if options.resume else None
        if known is not None and known.metadata["noise"] != options.action_noise:
            raise StoreMismatchError("acting: expected other; --allow-changed NAME goes on")
        metadata = None if known else {"noise": options.action_noise}
        with TrajectoryWriter(
            *(options.output, Schema.mosaic(3, 2), options.num_envs or 4),
            metadata=metadata,
            resume=options.resume,
            overwrite=options.overwrite,
        ) as writer:
            for _ in range(2):
                shape = writer.num_envs
                writer.add_step(observations=np.zeros((shape, 3)), actions=np.zeros((shape, 2)))
                on_step(writer)
        result = SimpleNamespace(
            store=options.output,
            num_steps=writer.num_steps,
            notes=("fine",),
            already_complete=False,
            completed=1,
            fell=2,
        )
        on_end(result)
        return result

    module = ModuleType("toy")
    vars(module).update(IsaacLabCollectOptions=ToyOptions, run_collect=run_collect)
    monkeypatch.setitem(sys.modules, "mosaic_collect.adapters.mjlab.collect", module)
    mjlab = ModuleType("mjlab")
    mjlab.__spec__ = ModuleSpec("mjlab", None)
    monkeypatch.setitem(sys.modules, "mjlab", mjlab)
    return seen


@pytest.fixture
def made(cli, seen: list[ToyOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    given = ["--task", "T", "--checkpoint", "c.pt", "--motion", "m", "--num_envs", "4"]
    given += ["--max-steps", "9", "--action-noise", "0.5", "--no-student-noise"]
    done = cli("collect", *given, "--student-drop", "a", "b", "--output", "s.zarr")
    assert done.code == 0, done.err
    return "s.zarr"


def test_what_it_prints_before_and_after(cli, seen, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--task", "T", "--checkpoint", "c.pt", "--max-steps", "9", "--motion", "m"]
    done = cli("collect", *given, "--output", "a b.zarr")
    assert done.code == 0
    for words in (
        *("collect: T in mjlab, 64 environments, device auto", "c.pt -> a b.zarr"),
        *("4 environments, 0.2 kB per step, 1.4 kB for 8 more steps", "GB free"),
    ):
        assert words in done.err
    for words in (
        *("a b.zarr: 2 steps; 1 trajectories reached their motion's end, 2 failed", "note: fine"),
        *("mosaic-collect report 'a b.zarr'", "verify 'a b.zarr' --checkpoint c.pt"),
    ):
        assert words in done.out


@pytest.mark.parametrize("flag", ["--resume", "--auto-resume"])
def test_a_resume_takes_from_the_store_what_it_knows(cli, seen, made: str, flag: str) -> None:
    assert cli("collect", flag, "--output", made, "--max-steps", "20").code == 0
    first, second = seen
    here = Path.cwd()
    expected = {
        **vars(first),
        "resume": {"--resume": True, "--auto-resume": "auto"}[flag],
        "max_steps": 20,
        "checkpoint": str(here / "c.pt"),
        "motion": str(here / "m"),
    }
    told = {name: value for name, value in vars(second).items() if name in expected}
    assert told == {name: expected[name] for name in told}
    assert (second.action_noise, second.student_noise) == (0.5, False)
    assert TrajectoryDataset(made).num_steps == 4
    assert cli("collect", flag, "--output", made).code == 0
    assert seen[-1].max_steps == 20, "of the last run"


def test_a_store_that_is_there_is_replaced_on_demand(cli, seen, made: str) -> None:
    given = ["--task", "T", "--checkpoint", "c.pt", "--max-steps", "9", "--output", made]
    cli_failed = cli("collect", *given)
    assert cli_failed.code == 2
    assert "--resume continues it, --overwrite deletes it" in cli_failed.err
    assert cli("collect", *given, "--overwrite").code == 0
    assert TrajectoryDataset(made).num_steps == 2
    assert "--overwrite" not in TrajectoryDataset(made).metadata[COMMAND_LINE]


def test_an_interrupt_says_how_to_go_on(cli, seen, made: str, monkeypatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    adapter = sys.modules["mosaic_collect.adapters.mjlab.collect"]
    monkeypatch.setattr(adapter, "run_collect", interrupted)
    done = cli(
        "collect", "--task", "T", "--checkpoint", "c.pt", "--output", "n.zarr", "--passes", "1"
    )
    assert (done.code, done.err.count("interrupted before the first step\n")) == (130, 1)
    done = cli("collect", "--resume", "--output", made)
    assert done.code == 130
    words = "s.zarr: 2 steps are committed; continue with: mosaic-collect collect --resume --output"
    assert f"{words} s.zarr\n" in done.err


def test_a_mismatch_names_the_flags_to_type(cli, seen, made: str) -> None:
    done = cli("collect", "--resume", "--output", made, "--action-noise", "0.7")
    assert done.code == 2
    assert "; --allow-changed acting goes on; as before: --action-noise 0.5" in done.err
    done = cli("collect", "--resume", "--output", made, "--action-noise", "0.7", "--push", "0.1")
    assert "as before: --action-noise 0.5; leave out --push" in done.err


def test_a_new_store_needs_a_task_and_a_checkpoint(cli, seen, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli("collect").failed("--output: expected the store to record, got none")
    for flags in ((), ("--auto-resume",), ("--resume",)):
        done = cli("collect", "--output", "s.zarr", *flags)
        done.failed("--task, --checkpoint: expected for a store that collect did not record")
    assert seen == []


def test_options_of_another_simulator(cli, seen, tmp_path) -> None:
    given = ["--task", "T", "--checkpoint", "c.pt", "--max-steps", "9"]
    given += ["--output", str(tmp_path / "s.zarr"), "--tasks-module", "m", "--student-task", "S"]
    words = "--tasks-module, --student-task: expected only with --sim isaaclab"
    cli("collect", *given).failed(words)
    given[6:] = ["--output", str(tmp_path / "s.zarr"), "--overrides", "env.sim.dt=1"]
    cli("collect", *given).failed("--overrides: expected only with --sim isaaclab")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("--task T", "command_line: expected options, got --task T"),
        (["--num-envs", "many"], "s.zarr: command_line: --num-envs: invalid int value: 'many'"),
        (["--nothing"], "s.zarr: command_line: unknown option --nothing"),
        (["-h"], "s.zarr: command_line: expected options, got ['-h']"),
        (["--task", "T", "--trust-checkpoint"], "give them again, as --trust-checkpoint"),
        (["--tasks-module", "evil"], "--tasks-module: these options run code, so a store does not"),
        (["--launcher=--x y"], "give them again, as '--launcher=--x y'"),
    ],
)
def test_a_store_does_not_choose_what_runs(cli, seen, made: str, entry: Any, words: str) -> None:
    with TrajectoryWriter(made, Schema.mosaic(3, 2), 4, resume=True) as writer:
        writer.update_metadata(**{COMMAND_LINE: entry})
    cli("collect", "--resume", "--output", made).failed(words)
    assert len(seen) == 1


def test_a_rank_without_a_motion_is_no_complete_store(capsys: pytest.CaptureFixture[str]) -> None:
    """One motion and two ranks: the second one makes no store."""
    rank = ToyOptions(task="T", checkpoint="c", output="ranks", distributed=True)
    result = SimpleNamespace(store="ranks/rank-00001", num_steps=0, already_complete=True)
    tell(result, rank)
    words = "this rank got no motion, as the other ranks record all of them"
    assert capsys.readouterr().out == f"ranks/rank-00001: {words}\n"
