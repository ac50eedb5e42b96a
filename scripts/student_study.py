"""What makes a student: the table and the plot of docs/students.md.

    python scripts/student_study.py out/study     # goes on where it was; an hour on two cores

The demo's expert is recorded in several ways, students are trained on each, and all of them run
side by side in one simulation: undisturbed, with actions disturbed, and pushed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mosaic_collect.adapters.mjlab.collect import CollectOptions, run_collect
from mosaic_collect.adapters.mjlab.simulation import MjlabOptions, MjlabSimulation
from mosaic_collect.collection.motions import MotionQueue, find_motions
from mosaic_collect.collection.progress import ProgressBar
from mosaic_collect.collection.protocols import StepResult
from mosaic_collect.collection.student import save_student
from mosaic_collect.collection.trial import Lane, run_trial
from mosaic_collect.demo import training
from mosaic_collect.demo.run import TASK, assets
from mosaic_collect.reading.dataset import TrajectoryDataset

ENVS, SEEDS, EACH = 128, (0, 1), 16
PUSH = 0.1  # m/s, standard deviation in x and y each, five times
CONDITIONS = ("undisturbed", "0.1", "0.2", "pushed")
#: Recordings: steps, and how.
STORES: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (250, {}),
    "noise-0.3": (500, {"action_noise": 0.3}),
    "random-0.3": (250, {"action_noise": 0.3, "start": "random"}),
    "dagger": (125, {"act_by": "plain", "act_share": 0.5}),
}


@dataclass(frozen=True)
class Case:
    """A student: what it was trained on, for how long."""

    name: str
    parts: tuple[tuple[str, int, int], ...]  # store, its first steps, its first environments
    updates: int = 3000

    @property
    def pairs(self) -> int:
        return sum(steps * envs for _, steps, envs in self.parts)

    @property
    def key(self) -> str:
        parts = "+".join("-".join(map(str, part)) for part in self.parts)
        return f"{parts}-{self.updates}"


CASES = (
    Case("mean", (("plain", 250, ENVS),)),
    Case("noise up to 0.3", (("noise-0.3", 250, ENVS),)),
    Case("noise up to 0.3, random starts", (("random-0.3", 250, ENVS),)),
    Case("mean, then the student in half the steps", (("plain", 125, ENVS), ("dagger", 125, ENVS))),
    Case("noise up to 0.3", (("noise-0.3", 250, ENVS),), 1000),
    Case("noise up to 0.3", (("noise-0.3", 250, 32),)),
    Case("noise up to 0.3", (("noise-0.3", 500, ENVS),)),
    Case("mean", (("plain", 250, 32),)),
)


class PushedSimulation(MjlabSimulation):
    """Pushes its last quarter of environments every 25 steps."""

    steps = 0

    def step(self, actions: torch.Tensor) -> StepResult:
        if self.steps % 25 == 20:
            robot = self.env.unwrapped.scene["robot"]
            velocity = robot.data.root_link_vel_w.clone()
            first = 3 * self.num_envs // 4
            velocity[first:, :2] += PUSH * torch.randn(self.num_envs - first, 2)
            robot.write_root_link_velocity_to_sim(velocity)
        self.steps += 1
        return super().step(actions)


def record(folder: str, name: str, motion: str, checkpoint: str) -> None:
    """One of ``STORES``, unless it is there."""
    steps, how = STORES[name]
    if how.get("act_by") == "plain":
        student = os.path.join(folder, "plain.pt")
        if not os.path.exists(student):
            save_student(train(folder, Case("", (("plain", 125, ENVS),)), 0), student)
        how = {**how, "act_by": student}
    options = CollectOptions(
        task=TASK,
        motion=motion,
        checkpoint=checkpoint,
        output=os.path.join(folder, f"{name}.zarr"),
        num_envs=ENVS,
        max_steps=steps,
        resume="auto",
        seed=1,
        **how,
    )
    with ProgressBar(steps, name) as bar:
        run_collect(options, bar)


def train(folder: str, case: Case, seed: int) -> nn.Module:
    """A student of a case, unless it is there."""
    path = os.path.join(folder, f"{case.key}-{seed}.pt")
    if not os.path.exists(path):
        pairs = [_pairs(folder, *part) for part in case.parts]
        seen, label = (torch.cat(values) for values in zip(*pairs, strict=True))
        torch.manual_seed(seed)
        student = training.new_student(seen.mean(0), seen.std(0), label.shape[1])
        training.fit(student, batches(seen, label), case.updates)
        torch.save(student, path)
        print(f"trained {case.name}: {case.pairs:,} pairs, {case.updates:,} updates", flush=True)
    trained: nn.Module = torch.load(path, weights_only=False)
    return trained


def batches(seen: torch.Tensor, label: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Each pair of these once, in another order each time, and again."""
    while True:
        for rows in torch.randperm(len(seen)).split(1024):
            yield {training.SEEN: seen[rows], training.LABEL: label[rows]}


def _pairs(folder: str, name: str, steps: int, envs: int) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = TrajectoryDataset(os.path.join(folder, f"{name}.zarr"))
    valid = dataset.read("valid_mask", 0, steps)[:, :envs]
    fields = (training.SEEN, training.LABEL)
    seen, label = (torch.from_numpy(dataset.read(f, 0, steps)[:, :envs][valid]) for f in fields)
    return seen, label


def trial(acts: list[Any], motion: str, checkpoint: str) -> list[list[int]]:
    """Of each who acts, None the expert: how many reach the end in each condition."""
    num_envs = EACH * len(CONDITIONS) * len(acts)
    options = MjlabOptions(task=TASK, num_envs=num_envs, seed=123)
    simulation = PushedSimulation(options, MotionQueue(find_motions(motion)))
    expert = simulation.policy(checkpoint)
    acts = [act or (lambda seen: expert.act(seen).mean) for act in acts]
    lanes = [Lane(act=act, noise=noise) for noise in (0.0, 0.1, 0.2, 0.0) for act in acts]
    found = run_trial(simulation, lanes)
    simulation.close()
    return [found[i :: len(acts)] for i in range(len(acts))]


def plot(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """The share that reaches the end: a group of bars for each who acts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.6 * len(rows)))
    width = 0.8 / len(CONDITIONS)
    for i, condition in enumerate(CONDITIONS):
        shares = [100 * row["reached"][condition] / row["of"] for row in rows]
        places = [-row - width * i for row in range(len(rows))]
        axes.barh(places, shares, width, label=condition)
    labels = [
        row["name"] + (f"\n{row['pairs']:,} pairs, {row['updates']:,} updates" * bool(row["pairs"]))
        for row in rows
    ]
    axes.set_yticks([-row - 0.3 for row in range(len(rows))], labels, fontsize=8)
    axes.set(xlabel="% of trajectories that reach the end")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Record, train, try, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "study.json")
    rows: list[dict[str, Any]] = json.loads(Path(path).read_text()) if os.path.exists(path) else []
    with assets() as (motion, checkpoint):
        for case in (None, *CASES):
            key = case.key if case else "expert"
            if key in [row["key"] for row in rows]:
                continue
            if case is None:
                acts: list[Any] = [None] * len(SEEDS)
            else:
                for name, _, _ in case.parts:
                    record(folder, name, motion, checkpoint)
                students = [train(folder, case, seed) for seed in SEEDS]
                acts = [lambda seen, s=student: s(seen["student"]) for student in students]
            rows.append(_row(case, key, trial(acts, motion, checkpoint)))
            Path(path).write_text(json.dumps(rows, indent=1))
    for row in rows:
        reached = " | ".join(str(row["reached"][c]) for c in CONDITIONS)
        print(f"| {row['name']} | {row['pairs']:,} | {row['updates']:,} | {reached} |")
    plot(rows, os.path.join(folder, "students.png"))


def _row(case: Case | None, key: str, found: list[list[int]]) -> dict[str, Any]:
    return {
        "key": key,
        "name": case.name if case else "the expert itself",
        "pairs": case.pairs if case else 0,
        "updates": case.updates if case else 0,
        "of": EACH * len(found),
        "reached": {c: sum(counts[i] for counts in found) for i, c in enumerate(CONDITIONS)},
        "each_student": found,
    }


if __name__ == "__main__":
    main()
