"""Torch tensors on the CPU: the same rules and rows as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import InputError
from mosaic_collect.recording.inputs import env_indices
from mosaic_collect.store.schema import DTYPES
from tests.helpers import ALL_DTYPES, add, assert_holds, assert_same, mask, open_writer, rows

torch = pytest.importorskip("torch", reason="torch is not installed; arrays are tested without")

N = 4


def tensors(step: int, schema: Schema) -> dict[str, Any]:
    return {k: torch.from_numpy(v) for k, v in rows(step, N, schema).items()}


def test_tensors_of_every_dtype_are_stored_bit_for_bit(store: str) -> None:
    with open_writer(store, N, ALL_DTYPES) as writer:
        for step in range(4):
            writer.add_step(**tensors(step, ALL_DTYPES))
    assert_holds(TrajectoryDataset(store), range(4))


def test_arrays_and_tensors_may_be_mixed(store: str) -> None:
    with open_writer(store, N) as writer:
        add(writer, 0)
        writer.add_step(**tensors(1, writer.schema), valid_mask=torch.from_numpy(mask(1, N)))
        mixed = rows(2, N)
        mixed["actions"] = torch.from_numpy(mixed["actions"])
        writer.add_step(**mixed, valid_mask=mask(2, N))
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(3))
    want = np.stack([np.ones(N, bool), mask(1, N), mask(2, N)])
    assert_same(dataset.read("valid_mask"), want)


@pytest.mark.parametrize("given", ["float64", "float16", "bfloat16"])
def test_floats_are_cast(store: str, given: str) -> None:
    step = {k: v.to(getattr(torch, given)) for k, v in tensors(0, Schema.mosaic(3, 2)).items()}
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    for name, value in step.items():
        assert_same(TrajectoryDataset(store).read(name)[0], value.float().numpy(), name)


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("int32", "int64"),
        ("float32", "int32"),
        ("float32", "bool"),
        ("float32", "complex64"),
        ("int32", "float32"),
        ("int32", "bfloat16"),
        ("bool", "uint8"),
    ],
)
def test_other_kinds_are_refused(store: str, stored: str, given: str) -> None:
    schema = Schema((Field(name="a", dim=2, dtype=stored),))
    value = torch.zeros((N, 2), dtype=getattr(torch, given))
    with (
        open_writer(store, N, schema) as writer,
        pytest.raises(InputError, match=f"a: expected dtype {stored}, got {given}"),
    ):
        writer.add_step(a=value)


def test_what_autograd_watches_is_copied(store: str) -> None:
    step = {k: v.requires_grad_() for k, v in tensors(0, Schema.mosaic(3, 2)).items()}
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    assert_holds(TrajectoryDataset(store), range(1))


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.t().contiguous().t(),
        lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
        lambda t: t[:1].expand(N, -1),
    ],
    ids=["transposed", "strided", "expanded"],
)
def test_any_layout_is_copied_right(store: str, layout: Any) -> None:
    step = tensors(0, Schema.mosaic(3, 2))
    step["observations"] = layout(step["observations"])
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    want = step["observations"].numpy()
    np.testing.assert_array_equal(TrajectoryDataset(store).read("observations")[0], want)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (torch.tensor([2, 0]), [0, 2]),
        (torch.tensor([[1], [3]]), [1, 3]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor(2), [2]),
        ([torch.tensor(1), torch.tensor(2)], [1, 2]),
    ],
)
def test_env_ids_may_be_tensors(given: Any, want: list[int]) -> None:
    assert env_indices(given, N).tolist() == want


def test_the_list_of_dtypes_is_all_that_torch_and_numpy_share() -> None:
    assert all(hasattr(torch, name) for name in DTYPES)
