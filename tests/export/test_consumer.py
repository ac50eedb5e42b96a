"""Exports in the hands of MOSAIC's consumer, which is written again here from its description.

Issue 2, "what MOSAIC does". The consumer is of NumPy only, with torch's rule for views spelled out,
so that it runs where torch is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Schema, export_npy
from tests.export import stores

KEYS = ("observations", "student_observations", "actions", "action_mean", "action_sigma")


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


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_loads_as_the_arrays_that_training_takes(store: str, npy: str, layout: str) -> None:
    stores.write(store, 7, schema=stores.STUDENT)
    export_npy(store, npy, layout=layout)

    loaded = collector_load(npy)
    for key in KEYS:
        array = loaded[key]
        assert array.dtype == np.dtype("float32")
        assert array.dtype.isnative
        assert array.ndim == 3
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
    assert isinstance(loaded["metadata"], dict)


def test_every_row_drawn_is_a_valid_finite_pair(store: str, npy: str) -> None:
    edit = stores.nan_at("observations", (3, 0), (4, 2))
    masks = stores.some_masks(4)
    recorded = stores.write(store, 12, masks=masks, edit=edit)
    export_npy(store, npy)

    good = stores.finite_pairs(recorded, stores.MOSAIC_NAMES)
    pairs = {tuple(row) for row in recorded["observations"][good].tolist()}
    seen, _ = Consumer(npy).draw(2000, seed=1)
    assert {tuple(row) for row in seen.tolist()} == pairs
    assert np.isfinite(Consumer(npy).loss())


@pytest.mark.parametrize(("fields", "per_pair"), [(KEYS, 4044), (KEYS[1:], 3428)])
@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_a_pair_takes_what_the_readme_says(
    store: str, npy: str, layout: str, fields: tuple[str, ...], per_pair: int
) -> None:
    stores.write(store, 6, schema=Schema.mosaic(154, 29, 770))
    report = export_npy(store, npy, layout=layout, fields=fields)
    assert report.device_nbytes == report.num_pairs * per_pair
    assert 0 < report.file_nbytes - report.device_nbytes < 8192
    consumer = Consumer(npy)
    kept = consumer.observations, consumer.actions, consumer.action_mean, consumer.action_sigma
    assert sum(array.nbytes for array in kept) == report.num_pairs * 3428


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_torch_trains_on_it(store: str, npy: str, layout: str) -> None:
    torch = pytest.importorskip("torch")
    stores.write(store, 9, schema=stores.STUDENT)
    export_npy(store, npy, layout=layout)

    # torch.from_numpy warns about an array that is not writable, and warnings are errors here.
    data = {
        key: torch.from_numpy(value)
        for key, value in collector_load(npy).items()
        if isinstance(value, np.ndarray)
    }
    seen = data["student_observations"]
    steps, envs, dim = seen.shape
    flat = seen.view(steps * envs, dim)
    target = data["action_mean"].view(steps * envs, -1)
    rows = torch.randint(0, steps * envs, (16,), generator=torch.Generator().manual_seed(0))
    network = torch.nn.Linear(dim, target.shape[1])
    loss = torch.nn.functional.mse_loss(network(flat[rows]), target[rows])
    loss.backward()
    assert torch.isfinite(loss)
