"""From an expert to a student that stands disturbances: record, train, run. Made to be changed.

    python examples/train_student.py --task Mjlab-Tracking-Flat-Unitree-G1 \
        --motion motions/ --checkpoint expert.pt --output out/student

The expert acts with noise on its actions. Its own mean action (``action_mean``) is the student's
label. Only a run in the simulation shows whether the student stands.
"""

import argparse
import os
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from mosaic_collect import BatchLoader, MjlabCollectOptions, run_collect, run_trial, save_student

SEEN, LABEL = "student_observations", "action_mean"


def record(options: MjlabCollectOptions) -> None:
    with tqdm(total=options.max_steps, desc="record", unit="step", disable=None) as bar:
        run_collect(options, lambda writer: bar.update(writer.num_steps - bar.n))


def train(store: str, updates: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    loader = BatchLoader(store, 1024, [SEEN, LABEL], seed=seed)
    (mean, std), (label, _) = loader.moments(SEEN, LABEL).values()
    normalizer = nn.BatchNorm1d(len(mean), affine=False).eval()  # part of what is saved
    normalizer.running_mean, normalizer.running_var = mean, (std + 0.01) ** 2
    layers = (nn.Linear(len(mean), 256), nn.ELU(), nn.Linear(256, 128), nn.ELU())
    student = nn.Sequential(normalizer, *layers, nn.Linear(128, len(label)))
    epochs = -(-updates // len(loader))
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in tqdm(range(epochs), "train", unit="epoch", disable=None):
        for batch in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(student(batch[SEEN]), batch[LABEL]).backward()
            optimizer.step()
        schedule.step()
    return student


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("task", "motion", "checkpoint", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("steps", 192), ("updates", 3000), ("each", 32), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    options = MjlabCollectOptions(
        task=args.task, motion=args.motion, checkpoint=args.checkpoint,
        output=os.path.join(args.output, "expert.zarr"), num_envs=128, max_steps=args.steps,
        action_noise=0.1, start="random", seed=args.seed, resume="auto",
    )  # fmt: skip
    record(options)
    student = train(options.output, args.updates, args.seed)
    save_student(student, os.path.join(args.output, "student.pt"))  # for collect --act-by
    trial = replace(options, start="first", seed=args.seed + 1)
    reached = run_trial(trial, {"student": student}, noise=(0.0, 0.1), trajectories=args.each)
    for name, (still, noisy) in reached.items():
        print(f"{name}: {still} of {args.each} to the motion's end, {noisy} with noise of 0.1")
