"""Exports in the hands of MOSAIC's consumer, of which ``tests/mosaic/fork.py`` is a double."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect import Schema, export_npy
from tests.export import stores

#: What the consumer keeps of a file: of observations the student's, if there are some.
KEPT = ("student_observations", "actions", "action_mean", "action_sigma")


@pytest.fixture
def load(npy: str) -> Callable[..., Any]:
    """Load the file as training does; torch warns about arrays that are not its own to write."""
    pytest.importorskip("torch")
    from tests.mosaic.fork import Algorithm

    return lambda *dims, **options: Algorithm(*dims, expert_trajectory_path=npy, **options)


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_training_takes_it(store: str, npy: str, load: Callable[..., Any], layout: str) -> None:
    stores.write(store, 9, schema=stores.STUDENT)
    export_npy(store, npy, layout=layout)
    algorithm = load(5, 2)
    assert {str(values.dtype) for values in algorithm.expert_data.values()} == {"torch.float32"}
    assert math.isfinite(algorithm.update()["bc_off_policy"])


def test_every_row_drawn_is_a_valid_finite_pair(
    store: str, npy: str, load: Callable[..., Any]
) -> None:
    edit = stores.nan_at("observations", (3, 0), (4, 2))
    recorded = stores.write(store, 12, masks=stores.some_masks(4), edit=edit)
    export_npy(store, npy)
    good = stores.finite_pairs(recorded, stores.MOSAIC_NAMES)
    pairs = {tuple(row) for row in recorded["observations"][good].tolist()}
    algorithm = load(3, 2, off_policy_batch_size=2000)
    seen = algorithm._sample_expert_batch()["observations"]
    assert {tuple(row) for row in seen.tolist()} == pairs
    assert math.isfinite(algorithm.update()["bc_off_policy"])


@pytest.mark.parametrize(("fields", "per_pair"), [(("observations", *KEPT), 4044), (KEPT, 3428)])
@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_a_pair_takes_what_the_readme_says(
    store: str, npy: str, layout: str, fields: tuple[str, ...], per_pair: int
) -> None:
    stores.write(store, 6, schema=Schema.mosaic(154, 29, 770))
    report = export_npy(store, npy, layout=layout, fields=fields)
    assert report.device_nbytes == report.num_pairs * per_pair
    assert 0 < report.file_nbytes - report.device_nbytes < 8192
    data = stores.load(npy)
    assert sum(data[name].nbytes for name in KEPT) == report.num_pairs * 3428
