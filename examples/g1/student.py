"""The other demo: does what was recorded make a student? Record, train, and let it run.

The expert acts with its actions disturbed, so that the recording shows how it recovers; what it
would have done without the disturbance is the label. The student sees its own observations only.
"""

from __future__ import annotations

import os
from dataclasses import replace

from torch import nn
from tqdm import tqdm

from examples.g1.run import beside, prepare, say
from examples.g1.squat import EXPERT, MOTION, TASK
from examples.g1.training import train_student
from mosaic_collect import (
    MjlabCollectOptions,
    TrajectoryDataset,
    run_collect,
    run_trial,
    save_student,
)
from mosaic_collect.commands.collect import step_bar
from mosaic_collect.text import table

STEPS = 192  # of 128 environments: 24,576 pairs
UPDATES = 3000
NOISE, DISTURBANCE = 0.1, 0.1  # largest while recording, and in the trial
EACH = 32  # trajectories of each lane
#: Shares of trajectories that a student must bring to their end, undisturbed and disturbed.
GOALS = (31 / 32, 28 / 32)


def run_student(
    output: str,
    num_envs: int,
    device: str | None,
    steps: int = STEPS,
    updates: int = UPDATES,
    each: int = EACH,
    seed: int = 0,
) -> bool:
    """Run all of it, telling on stdout what happens.

    Args:
        output: Folder for store and student; an earlier demo's are replaced.
        num_envs: Environments to record in.
        device: Of the simulation; None: CUDA if there is one.
        steps: To record.
        updates: Of the student's training.
        each: Trajectories of expert and student each, undisturbed and disturbed.
        seed: Of all that is random.

    Returns:
        Whether the student reached its goals.

    Raises:
        InputError: The folder holds something else.
        MosaicCollectError: A step failed.
    """
    prepare(output, "disturbed.zarr")
    store, path = (os.path.join(output, name) for name in ("disturbed.zarr", "student.pt"))
    recorded = MjlabCollectOptions(
        task=TASK,
        motion=MOTION,
        checkpoint=EXPERT,
        output=store,
        num_envs=num_envs,
        max_steps=steps,
        action_noise=NOISE,
        start="random",
        seed=seed,
        device=device,
    )
    _record(recorded)
    student = _train(store, updates, seed)
    save_student(student, path)
    reached = try_students(recorded, [student], each, seed + 1)
    _show(reached, each)
    _show_next(recorded, path)
    return all(n >= goal * each for n, goal in zip(reached[1], GOALS, strict=True))


def try_students(
    options: MjlabCollectOptions, students: list[nn.Module], each: int, seed: int
) -> list[list[int]]:
    """Run the expert and students side by side; trajectories that end, without and with noise."""
    trial = replace(options, start="first", seed=seed)
    named = {f"student {i}": student for i, student in enumerate(students)}
    with tqdm(unit="step", desc="trial", disable=None) as bar:
        return [*run_trial(trial, named, (0.0, DISTURBANCE), each, bar.update).values()]


def _record(options: MjlabCollectOptions) -> None:
    say("1. Record, actions disturbed. The first simulation on a machine compiles its kernels, "
        "which takes minutes.")  # fmt: skip
    with step_bar(options.max_steps) as bar:
        result = run_collect(options, bar)
    pairs = TrajectoryDataset(options.output).num_valid
    print(f"   {pairs:,} pairs; {result.completed} trajectories reached their motion's end, "
          f"{result.fell} fell, and what led there is recorded, too")  # fmt: skip


def _train(store: str, updates: int, seed: int) -> nn.Module:
    say("2. Train a student on what it would see, to do what the expert would do.")
    with tqdm(total=updates, unit="update", desc="train", disable=None) as bar:
        return train_student(store, updates, seed, bar.update)


def _show(reached: list[list[int]], each: int) -> None:
    say("3. Let it run: trajectories that reach the motion's end.")
    rows = [
        (who, *(f"{count} of {each}" for count in counts))
        for who, counts in zip(("the expert", "the student"), reached, strict=True)
    ]
    heads = ("who acts", "undisturbed", f"actions disturbed by {DISTURBANCE}")
    print("\n" + table(heads, rows, right_from=1))


def _show_next(recorded: MjlabCollectOptions, student: str) -> None:
    output = recorded.output.replace("disturbed", "labelled")
    print(
        "\nTry next: let the student act and the expert label, and train it again\n"
        f"  {beside('python')} -m mosaic_collect collect --task {TASK} --motion {recorded.motion} "
        f"--checkpoint {recorded.checkpoint} --max-steps 100 --num-envs 32 --act-by {student} "
        f"--act-share 0.5 --trust-checkpoint --output {output}"
    )
