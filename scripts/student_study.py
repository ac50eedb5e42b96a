"""What makes a student: the table and the picture of docs/students.md.

    python -m scripts.student_study out/study     # goes on where it was; an hour or two
    python -m scripts.student_study --draw docs/students.json docs/students.png    # of its results

The demo's expert is recorded in several ways, students are trained on each by the loader, and run
side by side in one simulation: undisturbed, with actions disturbed, and pushed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.g1.squat import EXPERT, MOTION, TASK
from examples.g1.training import LABEL, SEEN, train_student
from mosaic_collect import BatchLoader
from mosaic_collect.adapters.mjlab.collect import MjlabSimulation, run_collect
from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import find_motions
from mosaic_collect.collection.protocols import Observations, StepResult
from mosaic_collect.collection.student import save_student
from mosaic_collect.collection.trial import run_lanes
from mosaic_collect.commands.collect import step_bar
from mosaic_collect.look.canvas import LIGHT

ENVS, SEEDS = 128, (0, 1)
PUSH = 0.1  # m/s, standard deviation in x and y each, five times
CONDITIONS = ("undisturbed", "0.1", "0.2", "pushed")
_BOTH = {"action_noise": 0.3, "push": 0.2, "start": "random"}
#: Recordings: steps, and how.
STORES: dict[str, tuple[int, dict[str, Any]]] = {
    "mean": (500, {}),
    "noise-0.03": (192, {"action_noise": 0.03}),
    "noise-0.1": (192, {"action_noise": 0.1}),
    "noise-0.2": (192, {"action_noise": 0.2}),
    "noise": (192, {"action_noise": 0.3}),
    "noise-0.6": (192, {"action_noise": 0.6}),
    "noise-random": (500, {"action_noise": 0.3, "start": "random"}),
    "noise-0.1-random": (500, {"action_noise": 0.1, "start": "random"}),
    "push": (192, {"push": 0.2, "start": "random"}),
    "both": (192, _BOTH),
    "both-0.1": (192, {**_BOTH, "action_noise": 0.1}),
    "both-10": (192, {**_BOTH, "student_history": 10}),
    "dagger": (96, {**_BOTH, "act_by": "both", "act_share": 0.5}),
}


@dataclass(frozen=True)
class Case:
    """A student: what it was trained on, for how long.

    Attributes:
        name: In words.
        stores: Of ``STORES``.
        steps: The first of each.
        updates: Of its training.
        history: Frames that it sees.
    """

    name: str
    stores: tuple[str, ...]
    steps: int = 192
    updates: int = 3000
    history: int = 5

    @property
    def key(self) -> str:
        return f"{'+'.join(self.stores)}-{self.steps}-{self.updates}"


_BOTH_NAME = "noise up to 0.3, pushes up to 0.2, random starts"
_NOISE_NAME = "noise up to 0.3, random starts"
MEAN, NOISE = Case("the mean", ("mean",)), Case("noise up to 0.3", ("noise",))
RANDOM = Case(_NOISE_NAME, ("noise-random",))
#: What helps: drawn as bars.
WAYS = (
    Case("the mean", ("mean",), 500),
    Case(_NOISE_NAME, ("noise-random",), 500, 4500),
    Case("noise up to 0.1, random starts", ("noise-0.1-random",)),
    Case("noise up to 0.1, random starts", ("noise-0.1-random",), 500, 4500),
    Case("pushes up to 0.2, random starts", ("push",)),
    Case("noise up to 0.1, pushes up to 0.2, random starts", ("both-0.1",)),
    Case(_BOTH_NAME, ("both",)),
    Case(f"{_BOTH_NAME}; the student acts in a quarter", ("both", "dagger"), 96),
    Case(f"{_BOTH_NAME}; 10 frames", ("both-10",), history=10),
)
#: How much of it: drawn as curves.
CURVES: dict[str, dict[float, Case]] = {
    "largest noise (24,576 pairs, 3,000 updates)": {
        0.0: MEAN,
        0.03: Case("noise up to 0.03", ("noise-0.03",)),
        0.1: Case("noise up to 0.1", ("noise-0.1",)),
        0.2: Case("noise up to 0.2", ("noise-0.2",)),
        0.3: NOISE,
        0.6: Case("noise up to 0.6", ("noise-0.6",)),
    },
    "pairs (noise 0.3, random starts, 3,000 updates)": {
        62 * ENVS: Case(_NOISE_NAME, ("noise-random",), 62),
        192 * ENVS: RANDOM,
        500 * ENVS: Case(_NOISE_NAME, ("noise-random",), 500),
    },
    "updates (noise 0.3, random starts, 24,576 pairs)": {
        updates: Case(_NOISE_NAME, ("noise-random",), updates=updates)
        for updates in (300, 1000, 3000, 9000)
    },
}
CASES = tuple(dict.fromkeys((*WAYS, *(c for curve in CURVES.values() for c in curve.values()))))


class PushedSimulation(MjlabSimulation):
    """Pushes its last quarter of environments every 25 steps, always alike."""

    def reset(self) -> Observations:
        self.steps, self.chance = 0, torch.Generator().manual_seed(0)
        return super().reset()

    def step(self, actions: torch.Tensor) -> StepResult:
        if self.steps % 25 == 20:
            velocity = PUSH * torch.randn(self.num_envs, 2, generator=self.chance)
            velocity[: 3 * self.num_envs // 4] = 0.0
            self.push(velocity.to(self.device))
        self.steps += 1
        return super().step(actions)


def record(folder: str, name: str, motion: str, checkpoint: str) -> None:
    """One of ``STORES``, unless it is there."""
    steps, how = STORES[name]
    if how.get("act_by") in STORES:
        student = os.path.join(folder, f"{how['act_by']}.pt")
        if not os.path.exists(student):
            save_student(train(folder, Case("", (how["act_by"],), 96), 0), student)
        how = {**how, "act_by": student, "trust_checkpoint": True}
    options = MjlabCollectOptions(
        task=TASK,
        motion=motion,
        checkpoint=checkpoint,
        output=store_of(folder, name),
        num_envs=ENVS,
        max_steps=steps,
        resume="auto",
        seed=1,
        **how,
    )
    with step_bar(steps, name) as bar:
        run_collect(options, bar)


def store_of(folder: str, name: str) -> str:
    """The path of one of ``STORES``."""
    return os.path.join(folder, f"{name}.zarr")


def train(folder: str, case: Case, seed: int) -> nn.Module:
    """A student of a case, unless it is there."""
    path = os.path.join(folder, f"{case.key}-{seed}.pt")
    if not os.path.exists(path):
        paths = [store_of(folder, name) for name in case.stores]
        student = train_student(paths, case.updates, seed, steps=slice(case.steps))
        torch.save(student, path)
        print(f"trained {case.key}, seed {seed}", flush=True)
    trained: nn.Module = torch.load(path, weights_only=False)
    return trained


def data_of(folder: str, case: Case, student: nn.Module) -> tuple[int, float]:
    """The pairs that a student was trained on, and its mean square error on them."""
    paths = [store_of(folder, name) for name in case.stores]
    loader = BatchLoader(paths, 1024, [SEEN, LABEL], steps=slice(case.steps))
    with torch.no_grad():
        errors = [(student(b[SEEN]) - b[LABEL]).square().mean(1) for b in loader]
    return loader.num_pairs, float(torch.cat(errors).mean())


def trial(
    acts: list[Any], motion: str, checkpoint: str, history: int, each: int
) -> list[list[int]]:
    """Of each who acts, None the expert: how many of so many reach the end in each condition."""
    num_envs = each * len(CONDITIONS) * len(acts)
    options = MjlabCollectOptions(
        task=TASK,
        checkpoint=checkpoint,
        output="",
        num_envs=num_envs,
        seed=123,
        student_history=history,
    )
    simulation = PushedSimulation(options, MotionQueue(find_motions(motion)))
    expert = simulation.policy(checkpoint)
    acts = [act or (lambda seen: expert.act(seen).mean) for act in acts]
    lanes = [(act, noise) for noise in (0.0, 0.1, 0.2, 0.0) for act in acts]
    found = run_lanes(simulation, lanes)
    simulation.close()
    return [found[i :: len(acts)] for i in range(len(acts))]


def run_case(
    folder: str, case: Case | None, motion: str, checkpoint: str, each: int
) -> dict[str, Any]:
    """A row of the results; None: the expert's."""
    if case is None:
        found = trial([None] * len(SEEDS), motion, checkpoint, 5, each)
        return {**_row("expert", "the expert itself", each, found), "pairs": 0, "updates": 0}
    for name in case.stores:
        record(folder, name, motion, checkpoint)
    students = [train(folder, case, seed) for seed in SEEDS]
    acts: list[Any] = [lambda seen, s=student: s(seen["student"]) for student in students]
    data = [data_of(folder, case, student) for student in students]
    found = trial(acts, motion, checkpoint, case.history, each)
    told = {"pairs": data[0][0], "updates": case.updates, "mean_square_error": [e for _, e in data]}
    return {**_row(case.key, case.name, each, found), **told}


def _row(key: str, name: str, each: int, found: list[list[int]]) -> dict[str, Any]:
    return {
        "key": key,
        "name": name,
        "of": dict.fromkeys(CONDITIONS, each * len(found)),
        "reached": {c: sum(counts[i] for counts in found) for i, c in enumerate(CONDITIONS)},
        "each_student": found,
    }


def plot(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """The share that reaches the end: by how much of it, and by who acts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = {row["key"]: row for row in rows}
    keys = ["expert", *(case.key for case in (MEAN, NOISE, RANDOM, *WAYS))]
    figure = plt.figure(figsize=(11, 9))
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    above, below = parts
    for axes, (title, curve) in zip(above.subplots(1, 3, sharey=True), CURVES.items(), strict=True):
        _draw_curve(axes, title, {x: found[c.key] for x, c in curve.items() if c.key in found})
    _draw_bars(below.subplots(), [found[key] for key in keys if key in found])
    above.subplots_adjust(left=0.06, right=0.98, bottom=0.22, top=0.95, wspace=0.08)
    below.subplots_adjust(left=0.41, right=0.86, bottom=0.09, top=0.98)
    figure.savefig(path, dpi=110)


def _share(row: Mapping[str, Any], condition: str) -> float:
    """In percent."""
    return float(100 * row["reached"][condition] / row["of"][condition])


def _draw_curve(axes: Any, title: str, rows: Mapping[float, Mapping[str, Any]]) -> None:
    for condition, color, mark in zip(CONDITIONS, LIGHT.lines, "osD^", strict=False):
        shares = [_share(row, condition) for row in rows.values()]
        axes.plot(shares, f"{mark}-", color=color, markersize=4)
    axes.set(ylim=(-4, 104), ylabel="% that reach the end")
    axes.set_xlabel(title, fontsize=8)
    axes.set_xticks(range(len(rows)), [f"{x:,g}" for x in rows], fontsize=8)
    axes.label_outer()
    axes.grid(color=LIGHT.faint, linewidth=0.5)


def _draw_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    width = 0.8 / len(CONDITIONS)
    for i, condition in enumerate(CONDITIONS):
        places = [-row - width * i for row in range(len(rows))]
        shares = [_share(row, condition) for row in rows]
        label = condition if condition.isalpha() else f"disturbed by {condition}"
        bars = axes.barh(places, shares, width, label=label, color=LIGHT.lines[i])
        axes.bar_label(bars, [f"{share:.0f}" for share in shares], padding=2, fontsize=6)
    labels = [
        row["name"] + (f"\n{row['pairs']:,} pairs, {row['updates']:,} updates" * bool(row["pairs"]))
        for row in rows
    ]
    axes.set_yticks([-row - 0.3 for row in range(len(rows))], labels, fontsize=7)
    axes.set(xlabel="% of trajectories that reach the end", xlim=(0, 108))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table."""
    for row in rows:
        error = ", ".join(f"{e:.1e}" for e in row.get("mean_square_error", ()))
        reached = " | ".join(f"{row['reached'][c]} of {row['of'][c]}" for c in CONDITIONS)
        told = f"{row['pairs']:,} | {row['updates']:,} | {error}"
        print(f"| {row['name']} | {told} | {reached} |")


def main() -> None:
    """Record, train, try, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="for stores, students and study.json")
    parser.add_argument("--draw", nargs=2, metavar=("JSON", "PNG"), help="only what was found")
    parser.add_argument("--each", type=int, default=32, help="trajectories of each, a condition")
    args = parser.parse_args()
    if args.draw:
        rows = json.loads(Path(args.draw[0]).read_text())
        show(rows)
        plot(rows, args.draw[1])
        return
    os.makedirs(args.folder, exist_ok=True)
    path = Path(args.folder, "study.json")
    rows = json.loads(path.read_text()) if path.exists() else []
    for case in (None, *CASES):
        if (case.key if case else "expert") not in [row["key"] for row in rows]:
            rows.append(run_case(args.folder, case, MOTION, EXPERT, args.each))
            path.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)
    plot(rows, os.path.join(args.folder, "students.png"))


if __name__ == "__main__":
    main()
