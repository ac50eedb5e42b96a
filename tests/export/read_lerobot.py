"""Script: read a dataset by LeRobot's class into an .npz file. Arguments: folder, .npz file, rate.

Of torchvision LeRobot uses names, for images a transform of one line, and for videos a reader that
wraps PyAV; its wheels do not fit torch's build for CPUs.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from pyarrow import parquet


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


class VideoReader:
    """As torchvision's with PyAV: frames from the last key frame before a time on."""

    def __init__(self, path: str, stream: str) -> None:
        self.container = av.open(path)

    def seek(self, seconds: float, keyframes_only: bool) -> None:
        self.container.seek(int(seconds * av.time_base))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for frame in self.container.decode(video=0):
            image = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            yield {"data": image, "pts": frame.time}


stand_in("torchvision", __version__="0.28.0", set_video_backend=print)
stand_in("torchvision.io", VideoReader=VideoReader)
stand_in("torchvision.transforms", ToTensor=ToTensor)
stand_in("torchvision.transforms.v2", Transform=ToTensor, ToDtype=ToTensor)
stand_in("torchvision.transforms.v2.functional", to_tensor=None)


def check_statistics(dataset: Any) -> None:
    """Compare the statistics with those that LeRobot's code makes of the rows and episodes."""
    from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats

    episodes = []
    for row in parquet.read_table(dataset.root / "meta" / "episodes").to_pylist():
        items = range(row["dataset_from_index"], row["dataset_to_index"])
        of_episode = {}
        for name, feature in dataset.features.items():
            is_image = feature["dtype"] in ("image", "video")
            shape = (-1, 1, 1) if is_image else (-1,)
            stats = {
                kind: np.reshape(row[f"stats/{name}/{kind}"], (-1,) if kind == "count" else shape)
                for kind in ("min", "max", "mean", "std", "count", *QUANTILES)
            }
            of_episode[name] = stats
            if feature["dtype"] == "video":
                continue  # statistics are of the recorded frames
            rows = np.stack([np.asarray(dataset.hf_dataset[i][name]) for i in items])
            axis = (0, 2, 3) if is_image else 0
            theirs = get_feature_stats(rows.astype(np.float64), axis, keepdims=is_image)
            width = (stats["max"] - stats["min"]) / 5000 + 1e-6  # their histograms' bins
            for kind, value in stats.items():
                near = width if kind in QUANTILES else 1e-6
                if kind == "std":
                    near = 1e-4  # theirs is of squares, less the square of the mean
                assert (np.abs(np.reshape(theirs[kind], value.shape) - value) <= near).all(), (
                    name,
                    kind,
                    theirs[kind].ravel(),
                    value.ravel(),
                    len(items),
                )
        episodes.append(of_episode)
    total = aggregate_stats(episodes)
    assert total.keys() == dataset.meta.stats.keys()
    for name, stats in total.items():
        assert stats.keys() == dataset.meta.stats[name].keys()
        for kind, value in stats.items():
            np.testing.assert_allclose(dataset.meta.stats[name][kind], value, 1e-9, 1e-12)


QUANTILES = ("q01", "q10", "q50", "q90", "q99")

if __name__ == "__main__":
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder, out, *rate = sys.argv[1:]
    dataset = LeRobotDataset(
        "some/name",
        root=folder,
        delta_timestamps={"action": [0, 1 / int(rate[0] if rate else 50)]},
        video_backend="pyav",
    )
    check_statistics(dataset)
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
