"""Exports in the hands of MOSAIC's consumer."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_collect import Schema, export_npy
from tests.export import stores
from tests.export.consumer import Consumer, collector_load

KEYS = ("observations", "student_observations", "actions", "action_mean", "action_sigma")


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


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_rows_of_all_fields_belong_together(store: str, npy: str, layout: str) -> None:
    recorded = stores.write(store, 8, schema=stores.STUDENT)
    export_npy(store, npy, layout=layout)
    consumer = Consumer(npy)
    np.testing.assert_array_equal(  # the teacher's are not read
        consumer.observations, recorded["student_observations"].reshape(-1, 5)
    )
    for key in ("actions", "action_mean", "action_sigma"):
        want = recorded[key].reshape(-1, 2)
        np.testing.assert_array_equal(getattr(consumer, key), want)


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
