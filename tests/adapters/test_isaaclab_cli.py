"""The script's flags, without a simulator."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryWriter
from mosaic_collect.adapters.isaaclab_cli import Plan, add_arguments, json_safe, motion_files
from mosaic_collect.errors import InputError, StoreNotFoundError


@pytest.fixture
def motions(tmp_path: Path) -> Path:
    folder = tmp_path / "motions" / "deep"
    folder.mkdir(parents=True)
    for name in "abcde":
        np.savez(folder / f"{name}.npz", joint_pos=np.zeros((3, 2)))
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
        *("--logger", "wandb", "--run_name", "n", "--resume", "False"),
    )
    plan = Plan.of(args, {})
    assert (plan.store, plan.npy) == ("out/expert.zarr", "out/expert.npy")
    assert (plan.num_envs, plan.num_motions) == (5, 5)
    assert plan.motions.steps_per_trajectory == 500
    assert args.resume is False


def test_a_store_alone_and_a_store_elsewhere(motions: Path) -> None:
    alone = Plan.of(parse(motions, "x.zarr"), {})
    assert (alone.store, alone.npy) == ("x.zarr", None)
    elsewhere = Plan.of(parse(motions, "x.npy", "--store", "fast/y.zarr"), {})
    assert (elsewhere.store, elsewhere.npy) == ("fast/y.zarr", "x.npy")


def test_processes_share_motions_and_trajectories(motions: Path) -> None:
    plans = []
    for rank in "012":
        args = parse(motions, "x.npy", "--distributed", "--max_trajectories", "4")
        plans.append(Plan.of(args, {"RANK": rank, "WORLD_SIZE": "3"}))
    assert [p.store for p in plans] == [f"x-rank{r}.zarr" for r in range(3)]
    assert [p.npy for p in plans] == [f"x-rank{r}.npy" for r in range(3)]
    assert [p.num_motions for p in plans] == [2, 2, 1]
    assert [p.motions.max_trajectories for p in plans] == [2, 1, 1]
    assert Plan.of(parse(motions, "x.npy"), {"RANK": "1", "WORLD_SIZE": "3"}).motions.world == 1


def test_a_store_that_goes_on_keeps_its_environments(motions: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "x.zarr")
    with TrajectoryWriter(store, Schema.mosaic(3, 2), 2, buffer_mb=1):
        pass
    assert Plan.of(parse(motions, store, "--resume"), {}).num_envs == 2
    with pytest.raises(StoreNotFoundError):
        Plan.of(parse(motions, str(tmp_path / "none.zarr"), "--resume"), {})


def test_a_range_bounds_the_environments(motions: Path) -> None:
    args = parse(motions, "x.npy", "--start_index", "1", "--end_index", "3", "--num_envs", "9")
    assert Plan.of(args, {}).num_envs == 2


def test_all_problems_are_told_together(motions: Path) -> None:
    args = parse(
        motions,
        "x.zarr",
        *("--store", "y.zarr", "--num_envs", "0", "--checkpoint_path", "none.pt"),
        *("--start_index", "-1"),
    )
    with pytest.raises(InputError, match=r"store:.*start_index:.*num_envs:.*checkpoint_path:"):
        Plan.of(args, {})
    with pytest.raises(InputError, match=r"output_path: expected \*\.npy or \*\.zarr"):
        Plan.of(parse(motions, "expert"), {})


def test_motion_files(motions: Path, tmp_path: Path) -> None:
    assert [Path(p).stem for p in motion_files(str(motions))] == list("abcde")
    one = motion_files(str(motions))[0]
    assert motion_files(one) == [one]
    for nothing in (tmp_path / "none.npz", tmp_path / "motions" / "empty"):
        with pytest.raises(InputError, match="found none"):
            motion_files(str(nothing))


def test_configs_as_json() -> None:
    assert json_safe({"a": (1, 2.5), "b": {3: None}, "c": int}) == {
        "a": [1, 2.5],
        "b": {"3": None},
        "c": "<class 'int'>",
    }


def test_falls_are_left_out_of_an_export_of_a_store_that_knows_them(
    motions: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "x.npy")
    assert parse(motions, output).exclude_falls is False
    assert parse(motions, output, "--exclude_falls").exclude_falls is True
    with pytest.raises(InputError, match=r"exclude_falls: expected only with .*\.npy"):
        Plan.of(parse(motions, "x.zarr", "--exclude_falls"), {})
    with pytest.raises(InputError, match="exclude_falls: a grid holds every pair"):
        Plan.of(parse(motions, output, "--exclude_falls", "--layout", "grid"), {})

    schema = Schema.mosaic(3, 2)
    for known, path in ((schema, "old.npy"), (schema.with_ends(), "new.npy")):
        output = str(tmp_path / path)
        TrajectoryWriter(output.replace("npy", "zarr"), known, 2).close()
        args = parse(motions, output, "--exclude_falls", "--resume")
        if known.has_ends:
            assert Plan.of(args, {}).num_envs == 2
        else:
            with pytest.raises(InputError, match="does not know which ends"):
                Plan.of(args, {})
