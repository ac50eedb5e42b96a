"""MOSAIC's consumer, written again from its description (issue 2, "what MOSAIC does").

NumPy only, with torch's rule for views spelled out, so that it runs where torch is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Consumer:
    """Off-policy behaviour cloning's view of a file.

    Args:
        path: A string ending in ``.npy``; anything else is refused, as there.

    Attributes:
        observations, actions, action_mean, action_sigma: ``(T * N, D)`` float32, views of what
            was loaded.
    """

    def __init__(self, path: Any) -> None:
        assert isinstance(path, str)
        assert path.endswith(".npy")
        data = np.load(path, allow_pickle=True).item()
        seen = data.get("student_observations", data.get("observations"))
        self.observations = flat_view(seen)
        self.actions = flat_view(data["actions"])
        self.action_mean = flat_view(data["action_mean"])
        self.action_sigma = flat_view(data["action_sigma"])

    def draw(self, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a batch, drawn uniformly and none twice; ``valid_mask`` is ignored, as there."""
        rows = np.random.default_rng(seed).permutation(len(self.observations))[:batch]
        return self.observations[rows], self.action_mean[rows]

    def loss(self, batch: int = 64, seed: int = 0) -> float:
        """One update's loss with a float32 network: any other dtype crashes, NaN ruins it."""
        seen, mean = self.draw(batch, seed)
        assert seen.dtype == mean.dtype == np.float32
        weights = np.full((seen.shape[1], mean.shape[1]), 1e-3, np.float32)
        return float(np.mean((seen @ weights - mean) ** 2))


def flat_view(array: np.ndarray) -> np.ndarray:
    """``tensor.view(T * N, D)``: it fails where memory is not in C order, and never copies."""
    steps, envs, dim = array.shape
    assert array.flags.c_contiguous, "torch's view fails on it"
    view = array.reshape(steps * envs, dim)
    assert np.shares_memory(view, array) or not array.size
    return view


def collector_load(path: str) -> dict[str, Any]:
    """MOSAIC's collector's ``load``: every key but ``metadata`` becomes a tensor."""
    data = np.load(path, allow_pickle=True).item()
    loaded = {}
    for key, value in data.items():
        if key != "metadata":
            assert type(value) is np.ndarray, f"torch.from_numpy fails on {key}"
            assert value.flags.writeable, f"torch.from_numpy warns about {key}"
        loaded[key] = value
    return loaded
