"""What tests in mjlab share: two short motions, and options to collect from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from tests import helpers

TASK = "Mjlab-Tracking-Flat-Unitree-G1"
ASSETS = Path(helpers.REPO) / "examples" / "g1" / "assets"
EXPERT = str(ASSETS / "g1_expert.pt")
#: Frames of motion 0 and 1. A trajectory of L frames has L - 1 rows, those of frames 1..L-1.
FRAMES = (6, 9)
ROWS = tuple(frames - 1 for frames in FRAMES)

MARKS = [
    pytest.mark.sim,
    pytest.mark.slow,
    pytest.mark.xdist_group("mjlab"),
    pytest.mark.skipif(find_spec("mjlab") is None, reason="mjlab is not installed"),
    # mjlab 1.6 compiles its quaternion functions at import by what torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


@dataclass(frozen=True)
class Case:
    """A folder of motions beside which stores are made."""

    folder: Path

    @property
    def motions(self) -> str:
        return str(self.folder / "motions")

    def motion(self, index: int) -> Path:
        return self.folder / "motions" / f"{'ab'[index]}.npz"

    def store(self, name: str) -> str:
        return str(self.folder / f"{name}.zarr")

    def command(self, name: str, *more: str, checkpoint: str = EXPERT) -> list[str]:
        """A command line that collects into the store of that name."""
        return [
            *("collect", "--task", TASK, "--checkpoint", checkpoint, "--motion", self.motions),
            *("--output", self.store(name), "--device", "cpu", *more),
        ]

    def options(self, name: str, **changes: Any) -> Any:
        from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions

        options = MjlabCollectOptions(
            task=TASK,
            checkpoint=EXPERT,
            output=self.store(name),
            max_steps=100,
            motion=self.motions,
            num_envs=2,
            device="cpu",
            buffer_mb=16,
            commit_seconds=None,
        )
        return replace(options, **changes)

    def run(self, name: str, on_step: Any = None, **changes: Any) -> Any:
        """Collect into the store of that name; gives the result."""
        from mosaic_collect.adapters.mjlab.collect import run_collect

        return run_collect(self.options(name, **changes), on_step)

    def data(self, name: str) -> TrajectoryDataset:
        return TrajectoryDataset(self.store(name))


def changed_expert(path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """A checkpoint of the expert whose actor's parameters were changed in place."""
    import torch

    content = torch.load(EXPERT, weights_only=True)
    change(content["actor_state_dict"])
    torch.save(content, path)
    return str(path)


def make_case(folder: Path) -> Case:
    """Cut the demo's motion into two shorter ones."""
    with np.load(ASSETS / "g1_squat.npz") as arrays:
        whole = dict(arrays)
    case = Case(folder)
    os.mkdir(case.motions)
    for index, frames in enumerate(FRAMES):
        cut = {name: a if name == "fps" else a[:frames] for name, a in whole.items()}
        np.savez(case.motion(index), **cut)
    return case


def trajectories(dataset: TrajectoryDataset) -> list[tuple[int, list[int], bool]]:
    """Per trajectory with a valid row, in order of ids: motion, frames, and whether it ended."""
    names = ("trajectory_id", "motion_id", "motion_frame", "valid_mask")
    ids, motions, frames, valid = (dataset.read(name) for name in names)
    found = []
    for one in np.unique(ids[valid]):
        steps, envs = np.nonzero((ids == one) & valid)
        assert len(set(envs)) == 1
        assert (np.diff(steps) == 1).all()
        env, after = envs[0], steps[-1] + 1
        motion = set(motions[steps, envs].tolist())
        assert len(motion) == 1
        ended = after == dataset.num_steps or ids[after, env] != one
        found.append((motion.pop(), frames[steps, envs].tolist(), bool(ended)))
    return found
