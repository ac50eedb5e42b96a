"""The real thing: staging from CUDA tensors, where there is a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from tests.helpers import assert_holds, assert_same, mask, open_writer, rows

torch = pytest.importorskip("torch", reason="torch is not installed; CUDA staging needs it")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
N = 64
SCHEMA = Schema.mosaic(154, 29, 770, extra=(Field(name="phase", dtype="int32"),))


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    """A few steps that lie on the device already."""
    return [
        {n: torch.from_numpy(v).cuda() for n, v in rows(s, N, SCHEMA).items()} for s in range(40)
    ]


@pytest.mark.parametrize("encode_in", ["threads", "process"])
def test_a_store_from_device_tensors(
    store: str, steps: list[dict[str, Any]], encode_in: str
) -> None:
    """The simulator overwrites its tensors right after every step."""
    buffers = {n: torch.empty_like(v) for n, v in steps[0].items()}
    flags = torch.empty(N, dtype=torch.bool, device="cuda")
    options = {"block_steps": 8, "device": "cuda:0", "encode_in": encode_in}
    with open_writer(store, N, SCHEMA, **options) as writer:
        for step, given in enumerate(steps):
            for name, value in given.items():
                buffers[name].copy_(value)
            flags.copy_(torch.from_numpy(mask(step, N)))
            writer.add_step(**buffers, valid_mask=flags)
            for value in (*buffers.values(), flags):
                value.zero_()
            if step % 11 == 5:
                writer.end_trajectories(torch.tensor([step], device="cuda"))
                writer.commit()
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(40))
    assert_same(dataset.read("valid_mask"), np.stack([mask(s, N) for s in range(40)]))
    assert dataset.num_ended == 3 + (38 % 11 == 5)


def test_a_ring_that_another_process_sees_is_page_locked(store: str) -> None:
    options = {"block_steps": 8, "device": "cuda:0", "encode_in": "process"}
    with open_writer(store, N, SCHEMA, **options) as writer:
        assert writer._pipeline.staging.ring is not None, "the driver did not lock it"
        tensors = writer._pipeline.staging._tensors.values()
        assert all(t.is_pinned() for slot in tensors for t in slot.values())


@pytest.mark.parametrize("how", ["behind a long kernel", "on another stream", "by a CUDA graph"])
def test_buffers_are_overwritten_right_behind_each_step(
    store: str, steps: list[dict[str, Any]], how: str
) -> None:
    sources = {n: torch.empty_like(v) for n, v in steps[0].items()}
    buffers = {n: torch.empty_like(v) for n, v in steps[0].items()}
    slow, graph = torch.randn(4096, 4096, device="cuda"), torch.cuda.CUDAGraph()

    def fill() -> None:
        for name, value in buffers.items():
            value.copy_(sources[name])

    overwrite = fill
    if how == "by a CUDA graph":
        with torch.cuda.graph(graph):
            fill()
        overwrite = graph.replay
    stream = torch.cuda.Stream() if how == "on another stream" else torch.cuda.current_stream()
    torch.cuda.synchronize()
    options = {"block_steps": 4, "device": "cuda:0"}
    with torch.cuda.stream(stream), open_writer(store, N, SCHEMA, **options) as writer:
        for given in steps:
            for _ in range(5 if how == "behind a long kernel" else 0):
                slow = slow @ slow  # the device falls far behind the host
            for name, value in given.items():
                sources[name].copy_(value)
            overwrite()
            writer.add_step(**buffers)
            for value in sources.values():
                value.fill_(77)
            overwrite()
    assert_holds(TrajectoryDataset(store), range(40))


@pytest.mark.parametrize("pinned", [False, True])
def test_host_tensors_and_arrays_on_a_device_writer(store: str, pinned: bool) -> None:
    with open_writer(store, N, SCHEMA, block_steps=4, device="cuda:0") as writer:
        for step in range(20):
            given = {n: torch.from_numpy(v) for n, v in rows(step, N, SCHEMA).items()}
            if pinned:
                given = {n: v.pin_memory() for n, v in given.items()}
            writer.add_step(**given, valid_mask=mask(step, N))
            for value in given.values():
                value.zero_()
    assert_holds(TrajectoryDataset(store), range(20))


def test_device_tensors_on_a_host_writer(store: str, steps: list[dict[str, Any]]) -> None:
    with open_writer(store, N, SCHEMA, block_steps=4) as writer:
        for given in steps:
            writer.add_step(**given)
    assert_holds(TrajectoryDataset(store), range(40))


def test_resumes_change_devices(store: str, steps: list[dict[str, Any]]) -> None:
    open_writer(store, N, SCHEMA, block_steps=8).close()
    for first, device in [(0, "cuda:0"), (5, "cpu"), (10, "cuda"), (15, "cuda:0")]:
        with TrajectoryWriter(store, resume=True, device=torch.device(device)) as writer:
            for given in steps[first : first + 5]:
                writer.add_step(**given)
    assert_holds(TrajectoryDataset(store), range(20))


def test_device_memory_is_given_back(store: str, steps: list[dict[str, Any]]) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    writer = open_writer(store, N, SCHEMA, block_steps=8, device="cuda:0")
    writer.add_step(**steps[0])
    assert torch.cuda.memory_allocated() > before
    writer.close()
    assert torch.cuda.memory_allocated() == before
