"""A pool on a device: batches are right in whatever order streams run, and in torch's modes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from mosaic_collect import BatchLoader  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from mosaic_collect.sampling.device import DeviceMemory, TorchDevice  # noqa: E402
from tests.sampling.common import numbered, numbers, tile_mb  # noqa: E402
from tests.sampling.simulated_device import SimulatedDevice  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
MODES = ["epochs", "stream"]


@contextmanager
def pool_on(streams: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mosaic_collect.sampling.prefetch.PoolRunner._memory",
            lambda self, tiles: DeviceMemory(tiles, self._options.threads, streams),
        )
        yield


def some(store: str, mode: str, tiles: int, **options: Any) -> np.ndarray:
    options = {"mode": mode, "shuffle_buffer_mb": tiles * tile_mb(store), "threads": 2, **options}
    return numbers(islice(BatchLoader(store, 6, **options), 27))


@pytest.mark.parametrize("mode", MODES)
def test_batches_are_right_in_whatever_order_streams_run(store: str, mode: str) -> None:
    numbered(store, 23, 7, 4)
    for tiles in (5, 1000):
        want = some(store, mode, tiles, reuse=1)
        for device in chain([TorchDevice(torch.device("cpu"))], map(SimulatedDevice, range(5))):
            with pool_on(device):
                assert np.array_equal(some(store, mode, tiles, reuse=1), want)


@pytest.mark.parametrize("forgets", ["wait", "finish"])
def test_the_simulated_device_shows_what_is_not_ordered(store: str, forgets: str) -> None:
    """So that the test above can fail: a pool's memory that its former owner still writes to."""
    numbered(store, 23, 7, 4)
    wrong = []
    for seed in range(5):
        with pool_on(SimulatedDevice(seed, forgets)):
            loader = BatchLoader(store, 6, shuffle_buffer_mb=5 * tile_mb(store), threads=2)
            drawn = torch.cat([batch["number"].clone() for batch in loader])
        wrong.append(not np.array_equal(np.sort(drawn.numpy()), np.arange(161)))
    assert any(wrong)


INSIDE = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "outside": nullcontext,
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("mode", MODES)
def test_torchs_modes_change_nothing(store: str, mode: str, inside: str) -> None:
    """They belong to a thread, and the pool is written by others."""
    numbered(store, 23, 7, 4)
    want = some(store, mode, 5)
    for streams in (None, TorchDevice(torch.device("cpu"))):
        with pool_on(streams) if streams else nullcontext(), INSIDE[inside]():
            loader = BatchLoader(store, 6, mode=mode, shuffle_buffer_mb=5 * tile_mb(store))
            batches = list(islice(loader, 27))
            mean, _std = loader.moments()["wide"]
        assert np.array_equal(numbers(batches), want)
        assert not any(t.is_inference() for t in [mean, *batches[0].values()])
        assert mean.device.type == batches[0]["wide"].device.type == "cpu"
        assert batches[0]["wide"].dtype == torch.float32


def test_another_default_type_changes_nothing(store: str) -> None:
    numbered(store, 23, 7, 4)
    torch.set_default_dtype(torch.float64)
    try:
        assert next(iter(BatchLoader(store, 6)))["wide"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_device_is_that_of_the_thread_that_names_it(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(store, 4, 7, 4)
    current = threading.local()
    current.device = 3
    monkeypatch.setattr("torch.cuda.current_device", lambda: current.device)
    assert BatchLoader(store, 6, device="cuda").device == torch.device("cuda:3")
    for wrong in ("tpu?", 1.5):
        with pytest.raises(InputError, match="device: cannot use"):
            BatchLoader(store, 6, device=wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_cuda_without_a_device_is_told_at_once(store: str) -> None:
    numbered(store, 4, 7, 4)
    with pytest.raises(InputError, match="device: cannot use 'cuda'"):
        BatchLoader(store, 6, device="cuda")


@pytest.mark.parametrize("streams", [None, 3, 4])
def test_windows_on_a_device_are_those_of_the_host(store: str, streams: int | None) -> None:
    """Rows and padding masks, on the CPU's own streams and on simulated ones in any order."""
    numbered(store, 23, 7, 4, valid=lambda step: np.arange(7) % 5 != step % 5)
    options: dict[str, Any] = {"window": 3, "padding": True, "threads": 2}
    options["shuffle_buffer_mb"] = 9 * tile_mb(store)
    want = [{n: t.clone() for n, t in b.items()} for b in BatchLoader(store, 6, **options)]
    device = TorchDevice(torch.device("cpu")) if streams is None else SimulatedDevice(streams)
    with pool_on(device):
        got = [
            {n: t.clone() for n, t in batch.items()} for batch in BatchLoader(store, 6, **options)
        ]
    assert len(got) == len(want) > 3
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys() == {"number", "wide", "padding_mask"}
        for name, tensor in theirs.items():
            assert np.array_equal(mine[name].cpu().numpy(), tensor.numpy()), name
