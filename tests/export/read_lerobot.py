"""Script: read a dataset by LeRobot's own class into an .npz file. Arguments: folder, .npz file.

Without images LeRobot uses nothing of torchvision but names, and with them a transform of one line;
its wheels do not fit torch's build for CPUs.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import numpy as np
import torch


def stand_in(name: str, **contents: object) -> None:
    module = types.ModuleType(name)
    module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
    module.__dict__.update(contents)
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    sys.modules[name] = module


class ToTensor:
    """As torchvision's: (H, W, C) in bytes becomes (C, H, W) from 0 to 1."""

    def __init__(self, *args: object, **more: object) -> None:
        pass

    def __call__(self, image: object) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


stand_in("torchvision", __version__="0.28.0")
stand_in("torchvision.transforms", ToTensor=ToTensor)
stand_in("torchvision.transforms.v2", Transform=ToTensor, ToDtype=ToTensor)
stand_in("torchvision.transforms.v2.functional", to_tensor=None)

if __name__ == "__main__":
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder, out = sys.argv[1:]
    dataset = LeRobotDataset("some/name", root=folder, delta_timestamps={"action": [0, 1 / 50]})
    assert len(dataset) == dataset.num_frames == dataset.meta.total_frames
    items = [dataset[number] for number in range(len(dataset))]
    assert {len(item["action"]) for item in items} == {2}
    for item in items:
        item["action_now"] = item["action"][0]
    arrays = {
        name: np.stack([np.asarray(item[name]) for item in items])
        for name in items[0]
        if name not in ("task", "action")
    }
    padded = arrays["action_is_pad"][:, 1]
    np.testing.assert_array_equal(
        np.flatnonzero(padded) + 1, dataset.meta.episodes["dataset_to_index"]
    )
    tasks = np.array([item["task"] for item in items])
    ids = np.asarray(dataset.meta.episodes["trajectory_id"])
    np.savez(out, tasks=tasks, trajectory_ids=ids, **arrays)
