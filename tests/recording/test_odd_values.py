"""Tensors and arrays whose values cannot be read are told by name, whatever takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.errors import InputError
from tests.helpers import add, open_writer, rows

torch = pytest.importorskip("torch", reason="torch is not installed: no such tensors")
N = 4
SCHEMA = Schema.mosaic(3, 2).with_ends()


def _made(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that these are young, or old
        return make()


#: A kind's words, and a maker of a value of any shape and dtype.
ODD: dict[str, Callable[[Any], Any]] = {
    "a meta tensor": lambda t: t.to("meta"),
    "a sparse tensor": lambda t: t.to_sparse(),
    "a nested tensor": lambda t: torch.nested.nested_tensor(list(t)),
    "a masked array": lambda t: np.ma.masked_array(t.numpy(), mask=False),
}


@pytest.mark.parametrize("words", ODD)
def test_values_of_a_step(store: str, words: str) -> None:
    with open_writer(store, N, SCHEMA) as writer:
        add(writer, 0)
        for name, value in (("observations", torch.ones(N, 3)), ("valid_mask", torch.ones(N) > 0)):
            with pytest.raises(InputError, match=f"{name}: expected .* values, got {words}"):
                writer.add_step(
                    **{**rows(1, N, SCHEMA), name: _made(lambda v=value: ODD[words](v))}
                )
    assert TrajectoryDataset(store).num_steps == 1


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("name", ["env_ids", "failed", "dones", "time_outs"])
def test_environments_that_ended(store: str, words: str, name: str) -> None:
    odd = _made(lambda: ODD[words](torch.ones(N) > 0))
    given = {"failed": {"env_ids": range(N)}, "time_outs": {"dones": np.ones(N, bool)}}
    with open_writer(store, N, SCHEMA) as writer:
        add(writer, 0)
        with pytest.raises(InputError, match=f"^{name}: expected .*, got {words}"):
            writer.end_trajectories(**{**given.get(name, {}), name: odd})
    assert TrajectoryDataset(store).num_ended == 0


def test_a_quantized_tensor(store: str) -> None:
    odd = _made(lambda: torch.quantize_per_tensor(torch.ones(N, 3), 1.0, 0, torch.quint8))
    with open_writer(store, N) as writer, pytest.raises(InputError, match="a quantized tensor"):
        writer.add_step(**{**rows(0, N), "observations": odd})


def test_flags_and_ids_of_bfloat16(store: str) -> None:
    """Which NumPy lacks."""
    with open_writer(store, N, SCHEMA) as writer:
        add(writer, 0)
        with pytest.raises(InputError, match="env_ids: expected whole numbers or a bool mask"):
            writer.end_trajectories(torch.zeros(1, dtype=torch.bfloat16))
        writer.end_trajectories(dones=torch.tensor([0, 1, 0, 1], dtype=torch.bfloat16))
    assert TrajectoryDataset(store).num_ended == 2


@pytest.mark.parametrize("words", ODD)
def test_mosaics_class(tmp_path: Path, words: str) -> None:
    from mosaic_collect import ExpertTrajectoryCollector

    collector = ExpertTrajectoryCollector(3, 2, store=tmp_path / "s.zarr", buffer_mb=1)
    odd = _made(lambda: ODD[words](torch.ones(N) > 0))
    step = (torch.zeros(N, 3), torch.zeros(N, 2))
    with pytest.raises(InputError, match=f"valid_mask: .*{words}"):
        collector.add_step(*step, valid_mask=odd)
    collector.add_step(*step)
    with pytest.raises(InputError, match=f"env_ids: .*{words}"):
        collector.mark_trajectory_end(env_ids=odd)
    assert collector.num_trajectories == 0
    collector.close()


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), 0.5])
def test_a_default_of_numpys(store: str, number: Any) -> None:
    schema = Schema((Field(name="a", dim=np.int64(2)), Field(name="b", default=number)))
    with open_writer(store, N, schema) as writer:
        writer.add_step(a=np.zeros((N, 2), np.float32))
    assert TrajectoryDataset(store).read("b").tolist() == [[0.5] * N]
