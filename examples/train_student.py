"""From an expert to a student that stands disturbances: record, train, run. Made to be changed.

    python -m examples.train_student --task Mjlab-Tracking-Flat-Unitree-G1 \
        --motion motions/ --checkpoint expert.pt --output out/student

The expert acts with its actions disturbed, and what it would have done (``action_mean``) is what
the student learns to do on its own observations. Only a run in the simulation says whether it does.
"""

import argparse
import os

import torch
from torch import nn
from tqdm import tqdm

from examples.g1.trial import Lane, run_trial
from mosaic_collect import BatchLoader
from mosaic_collect.adapters.mjlab.collect import MjlabSimulation, run_collect
from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions, MjlabOptions
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import find_motions
from mosaic_collect.collection.student import save_student
from mosaic_collect.commands.collect import ProgressBar

SEEN, LABEL = "student_observations", "action_mean"


def record(args: argparse.Namespace, store: str) -> None:
    options = MjlabCollectOptions(
        task=args.task, motion=args.motion, checkpoint=args.checkpoint, output=store,
        num_envs=128, max_steps=args.steps, action_noise=0.1, start="random", resume="auto",
    )  # fmt: skip
    with ProgressBar(args.steps) as bar:
        run_collect(options, bar)


def train(args: argparse.Namespace, store: str) -> nn.Module:
    torch.manual_seed(args.seed)
    loader = BatchLoader(store, 1024, [SEEN, LABEL], seed=args.seed)
    (mean, std), (label, _) = loader.moments(SEEN, LABEL).values()
    normalizer = nn.BatchNorm1d(len(mean), affine=False).eval()  # part of what is saved
    normalizer.running_mean, normalizer.running_var = mean, (std + 0.01) ** 2
    layers = (nn.Linear(len(mean), 256), nn.ELU(), nn.Linear(256, 128), nn.ELU())
    student = nn.Sequential(normalizer, *layers, nn.Linear(128, len(label)))
    epochs = -(-args.updates // len(loader))
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in tqdm(range(epochs), "train", unit="epoch", disable=None):
        for batch in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(student(batch[SEEN]), batch[LABEL]).backward()
            optimizer.step()
        schedule.step()
    return student


def run(args: argparse.Namespace, student: nn.Module) -> None:
    options = MjlabOptions(task=args.task, num_envs=4 * args.each, seed=args.seed + 1)
    simulation = MjlabSimulation(options, MotionQueue(find_motions(args.motion)))
    expert, student = simulation.policy(args.checkpoint), student.to(simulation.device)
    acts = (lambda seen: expert.act(seen).mean, lambda seen: student(seen["student"]))
    lanes = [Lane(act=act, noise=noise) for act in acts for noise in (0.0, 0.1)]
    reached = run_trial(simulation, lanes, seed=args.seed)
    for who, still, disturbed in (("expert", *reached[:2]), ("student", *reached[2:])):
        print(f"{who}: {still} of {args.each} to the motion's end, {disturbed} disturbed by 0.1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("task", "motion", "checkpoint", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("steps", 192), ("updates", 3000), ("each", 32), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    os.makedirs(given.output, exist_ok=True)
    record(given, os.path.join(given.output, "expert.zarr"))
    trained = train(given, os.path.join(given.output, "expert.zarr"))
    save_student(trained, os.path.join(given.output, "student.pt"))  # for collect --act-by
    run(given, trained)
