"""The script's flags, without a simulator."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter
from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.commands import script
from mosaic_collect.commands.script import (
    add_arguments,
    newest_checkpoint,
    plan_collection,
    wandb_run,
)
from mosaic_collect.errors import InputError, StoreExistsError, StoreNotFoundError
from tests.collection import students
from tests.helpers import motion_arrays


@pytest.fixture
def motions(tmp_path: Path) -> Path:
    folder = tmp_path / "motions" / "deep"
    folder.mkdir(parents=True)
    for value, name in enumerate("abcde"):
        np.savez(folder / f"{name}.npz", **motion_arrays(np.full((3, 2), value)))
    return folder.parent


def parse(motions: Path, output: str, *flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(
        ["--task", "T", "--motion", str(motions), "--output_path", output, *flags]
    )


def test_mosaics_own_command_line(motions: Path) -> None:
    args = parse(
        motions,
        "out/expert.npy",
        *("--num_envs=800", "--steps_per_env=500", "--student_task=S", "--disable_student_noise"),
        *("--enable_terminations", "--experiment_name", "e", "--load_run", "r"),
        *("--resume", "False"),
    )
    plan = plan_collection(args, {})
    options = plan.options
    assert (options.output, plan.npy) == ("out/expert.zarr", "out/expert.npy")
    assert (options.num_envs, len(plan.found)) == (5, 5)
    assert options.steps_per_trajectory == 500
    assert (options.student_task, options.student_noise, options.terminations) == ("S", False, True)
    run = (options.experiment_name, options.load_run, options.load_checkpoint)
    assert run == ("e", "r", None)
    assert (options.resume, options.passes) == (False, 1)


#: Every flag of MOSAIC's script and of its rsl_rl part that changes a collection: the option that
#: it sets, a value as upstream takes it, and what upstream has without it.
MOSAICS_FLAGS: dict[str, tuple[str, Any, Any]] = {
    "checkpoint_path": ("checkpoint", "m.pt", None),
    "num_envs": ("num_envs", 800, 16),
    "steps_per_env": ("steps_per_trajectory", 500, 100),
    "max_trajectories": ("max_trajectories", 7, None),
    "start_index": ("start_index", 2, None),
    "end_index": ("end_index", 4, None),
    "enable_terminations": ("terminations", None, None),
    "student_obs_history": ("student_history", 5, None),
    "student_task": ("student_task", "S", None),
    "disable_student_noise": ("student_noise", None, None),
    "experiment_name": ("experiment_name", "e", None),
    "resume": ("resume", True, False),
    "load_run": ("load_run", "r", None),
    "checkpoint": ("load_checkpoint", "model_1.pt", None),
    "resume_student_checkpoint": ("resume_student_checkpoint", "logs/model_1.pt", None),
    "wandb_path": ("wandb_path", "a/b/c", None),
    "distributed": ("distributed", None, False),
}


@pytest.mark.parametrize("flag", MOSAICS_FLAGS)
def test_each_flag_of_mosaics_script_is_taken(motions: Path, flag: str) -> None:
    name, given, default = MOSAICS_FLAGS[flag]
    assert getattr(parse(motions, "x.npy"), name, None) == default
    value = [] if given is None else [str(given)]
    set_by = "disable" not in flag if given is None else given
    assert getattr(parse(motions, "x.npy", f"--{flag}", *value), name) == set_by


def test_options_that_only_the_command_line_had(motions: Path) -> None:
    """Both are made of one description."""
    more = ("--record", "reward,critic", "--record_states", "--compressor", "lz4", "--push", "0.5")
    more += ("--no_teacher_noise", "--buffer_mb", "1.5")
    options = plan_collection(parse(motions, "x.npy", *more), {}).options
    plain = plan_collection(parse(motions, "x.npy"), {}).options
    assert (options.buffer_mb, plain.buffer_mb) == (1.5, "auto")
    assert (options.extra_names, options.compressor) == (["reward", "critic", "states"], "lz4")
    assert (options.push, options.teacher_noise) == (0.5, False)


def test_required_flags_are_optional_while_the_launcher_adds_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Launcher:
        def add_flags(self, parser: argparse.ArgumentParser) -> None:
            assert parser.parse_known_args([])[0].task is None

    monkeypatch.setattr("mosaic_collect.commands.script.installed", Launcher)
    monkeypatch.setattr("sys.argv", ["script", "--task", "T"])
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        script.parse(parser)
    assert "required: --motion, --output_path" in capsys.readouterr().err


def test_one_checkpoint_only(motions: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.touch()
    both = ("--checkpoint_path", str(model), "--wandb_path", "team/project/run")
    with pytest.raises(InputError, match="checkpoint, wandb_path: expected one checkpoint"):
        plan_collection(parse(motions, "x.npy", *both), {})
    missing = ("--resume_student_checkpoint", str(tmp_path / "none.pt"))
    with pytest.raises(InputError, match=r"resume_student_checkpoint: .* none at .*none\.pt"):
        plan_collection(parse(motions, "x.npy", *missing), {})
    for flag in ("--checkpoint_path", "--resume_student_checkpoint"):
        plan_collection(parse(motions, "x.npy", flag, str(model)), {})


def test_a_run_on_weights_and_biases() -> None:
    assert wandb_run("team/models/run7") == ("team/models/run7", None)
    assert wandb_run("team/models/run7/model_500.pt") == ("team/models/run7", "model_500.pt")
    files = ["config.yaml", "model_900.pt", "model_1000.pt", "model_card.md", "x/model_2000.pt"]
    assert newest_checkpoint(files) == "model_1000.pt"
    with pytest.raises(InputError, match=r"files model_\*\.pt, found none"):
        newest_checkpoint(["config.yaml"])


def test_a_store_alone_and_a_store_elsewhere(motions: Path) -> None:
    alone = plan_collection(parse(motions, "x.zarr"), {})
    assert (alone.options.output, alone.npy) == ("x.zarr", None)
    elsewhere = plan_collection(parse(motions, "x.npy", "--store", "fast/y.zarr"), {})
    assert (elsewhere.options.output, elsewhere.npy) == ("fast/y.zarr", "x.npy")


def torchrun(rank: int, world: int = 3) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}


def test_processes_share_motions_and_trajectories(motions: Path) -> None:
    plans = []
    for rank in range(3):
        args = parse(motions, "x.npy", "--distributed", "--max_trajectories", "4")
        plans.append(plan_collection(args, torchrun(rank)))
    assert [p.options.output for p in plans] == ["x.zarr"] * 3
    assert [p.npy for p in plans] == [f"x-rank{r}.npy" for r in range(3)]
    assert [p.options.num_envs for p in plans] == [2, 2, 2]
    assert [p.options.max_trajectories for p in plans] == [2, 1, 1]
    assert plans[1].options.distributed
    alone = plan_collection(parse(motions, "x.npy"), torchrun(1))
    assert (alone.npy, alone.options.num_envs) == ("x.npy", 5)
    with pytest.raises(InputError, match="expected torchrun's RANK, LOCAL_RANK, WORLD_SIZE"):
        plan_collection(args, {})


def test_a_store_that_goes_on_keeps_its_environments(motions: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "x.zarr")
    with TrajectoryWriter(store, Schema.mosaic(3, 2), 2, buffer_mb=1):
        pass
    assert plan_collection(parse(motions, store, "--resume"), {}).options.num_envs == 2
    with pytest.raises(StoreExistsError, match="--resume goes on with it"):
        plan_collection(parse(motions, store), {})
    with pytest.raises(StoreNotFoundError):
        plan_collection(parse(motions, str(tmp_path / "none.zarr"), "--resume"), {})
    assert plan_collection(parse(motions, store, "--resume", "auto"), {}).options.num_envs == 2
    assert plan_collection(parse(motions, str(tmp_path / "none.zarr"), "--resume", "auto"), {})
    (tmp_path / "empty.zarr").mkdir()
    assert plan_collection(parse(motions, str(tmp_path / "empty.zarr")), {}).options.num_envs == 5


def test_a_range_bounds_the_environments(motions: Path) -> None:
    args = parse(motions, "x.npy", "--start_index", "1", "--end_index", "3", "--num_envs", "9")
    assert plan_collection(args, {}).options.num_envs == 2


def test_all_problems_are_told_together(motions: Path) -> None:
    args = parse(
        motions,
        "x.zarr",
        *("--store", "y.zarr", "--num_envs", "0", "--checkpoint_path", "none.pt"),
        *("--start_index", "-1", "--steps_per_env", "0", "--max_steps", "0", "--layout", "grid"),
        *("--max_trajectories", "0", "--student_obs_history", "-1"),
    )
    with pytest.raises(InputError) as told:
        plan_collection(args, {})
    assert sorted(problem.split(":")[0] for problem in str(told.value).split("; ")) == [
        *("checkpoint", "layout", "max_steps", "max_trajectories", "num_envs"),
        *("start_index", "steps_per_trajectory", "store", "student_history"),
    ]
    with pytest.raises(InputError, match='buffer_mb: expected "auto" or a positive number, got'):
        plan_collection(parse(motions, "x.npy", "--buffer_mb", "much"), {})
    with pytest.raises(InputError, match=r"output_path: expected \*\.npy or \*\.zarr"):
        plan_collection(parse(motions, "expert"), {})


def test_a_process_with_nothing_to_collect_is_told_before_a_simulator_starts(
    motions: Path,
) -> None:
    with pytest.raises(InputError, match=r"motions 3\.\.3: none among 5"):
        plan_collection(parse(motions, "x.npy", "--start_index", "3", "--end_index", "3"), {})
    args = parse(motions, "x.npy", "--distributed", "--max_trajectories", "2")
    with pytest.raises(InputError, match="max_trajectories: expected at least 3, got 2"):
        plan_collection(args, torchrun(0))


def test_who_acts(motions: Path, tmp_path: Path) -> None:
    def acting(*flags: str) -> Acting:
        options = plan_collection(parse(motions, "x.npy", *flags), {}).options
        return Acting(**{field.name: getattr(options, field.name) for field in fields(Acting)})

    assert acting() == replace(AS_TRAINED, seed=None)
    student = students.save(students.Constant(0.0, 2), tmp_path / "student.pt")
    given = ("--action_noise", "0.3", "--start", "random", "--seed", "4", "--push", "0.1")
    given += ("--act_by", student, "--act_share", "0.2")
    assert acting(*given, "--trust_checkpoint") == Acting(
        action_noise=0.3, act_by=student, act_share=0.2, push=0.1, start="random", seed=4,
        trust_checkpoint=True,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"act_by: .*TorchScript program"):
        acting(*given)
    wrong = ("--action_noise", "-1", "--act_share", "0.2", "--num_envs", "0")
    with pytest.raises(InputError, match=r"num_envs.*action_noise.*act_share: expected only where"):
        acting(*wrong)


def test_falls_are_left_out_of_an_export_of_a_store_that_knows_them(
    motions: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "x.npy")
    assert parse(motions, output).exclude_falls is False
    assert parse(motions, output, "--exclude_falls").exclude_falls is True
    with pytest.raises(InputError, match=r"exclude_falls: expected only with .*\.npy"):
        plan_collection(parse(motions, "x.zarr", "--exclude_falls"), {})
    with pytest.raises(InputError, match="exclude_falls: a grid holds every pair"):
        plan_collection(parse(motions, output, "--exclude_falls", "--layout", "grid"), {})
