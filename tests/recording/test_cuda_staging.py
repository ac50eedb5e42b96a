"""Staging on a device, proven on a simulated one whose streams are as late as events allow.

Each wait is necessary: taking any one away is noticed by the same check that passes with all.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import SpaceError, WriteError
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.recording.blocks import Block
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import ENDED, FAILED, TRAJECTORY_END, VALID_MASK
from tests.helpers import (
    ALL_DTYPES,
    CAMERA,
    add,
    assert_holds,
    assert_same,
    ids,
    mask,
    open_writer,
    rows,
)

torch = pytest.importorskip("torch", reason="torch is not installed; staging on a device needs it")

from mosaic_collect.recording import cuda  # noqa: E402
from mosaic_collect.recording.cuda import DeviceStaging  # noqa: E402
from tests.recording.simulated_streams import SimulatedTorch  # noqa: E402
from tests.simulated_streams import DeviceTensor  # noqa: E402

N, S, BLOCKS, SLOTS = 3, 4, 7, 3
SCHEMA = Schema((Field(name="a", dim=2), Field(name="b", dtype="int64"), Field(name="c", dim=2)))


@pytest.fixture(params=["caller", "stream-1"])
def simulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimulatedTorch:
    """``torch`` as staging sees it: stream-1 is staging's own, the others are its caller's."""
    found = SimulatedTorch(request.param)
    monkeypatch.setattr(cuda, "torch", found)
    return found


ALL_STREAMS = pytest.mark.parametrize(
    "simulated", ["caller", "stream-1", "stream-2", "stream-3"], indirect=True
)


class Simulator:
    """A simulator on the device: it overwrites the same few tensors at every step."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.tensors = {
            n: torch.from_numpy(v).clone().as_subclass(DeviceTensor)
            for n, v in host_row(0, schema).items()
        }

    def step(self, number: int) -> dict[str, Any]:
        """Queue the next step's values into the tensors that every step has used."""
        for name, value in host_row(number, self.schema).items():
            self.tensors[name].copy_(torch.from_numpy(value))
        return self.tensors


class Recording:
    """Stages blocks as the writer does, and takes each slot's values as late as it can."""

    def __init__(self, schema: Schema = SCHEMA, kind: type[DeviceStaging] = DeviceStaging) -> None:
        grids = {f.name: FieldGrid(f, N, S, chunk_envs=2) for f in schema.stored}
        self.schema = schema
        self.staging = kind(grids, N, "cuda:0")
        self.slots = [self.staging.new_block(slot) for slot in range(SLOTS)]
        for slot in self.slots:
            slot.fill()
        self.busy: list[Block] = []
        self.taken: dict[int, dict[str, np.ndarray]] = {}

    def begin(self, index: int) -> Block:
        """The next block, in the slot of the oldest one."""
        if len(self.busy) == SLOTS:
            self.take()
        block = self.slots[index % SLOTS]
        block.start(index, np.arange(N))
        self.staging.begin(block)
        return block

    def stage(self, block: Block, row: Callable[[int], dict[str, Any]], steps: int = S) -> None:
        """Add so many steps to the block, of which ``row`` is called for each."""
        for _ in range(steps):
            given = row(block.index * S + block.count)
            self.staging.stage(block, given)
            spoil(given)
            block.count += 1

    def run(self, blocks: int, row: Callable[[int], dict[str, Any]]) -> None:
        """Stage so many full blocks, and take them all."""
        for index in range(blocks):
            block = self.begin(index)
            self.stage(block, row)
            self.seal(block)
        while self.busy:
            self.take()
        self.staging.close()

    def seal(self, block: Block) -> None:
        self.staging.seal(block)
        self.busy.append(block)

    def take(self) -> None:
        """What the encoder sees of the oldest block."""
        block = self.busy.pop(0)
        block.wait_ready()
        self.taken[block.index] = {n: a[:N].copy() for n, a in block.arrays.items()}

    def is_exact(self, row: Callable[[int], dict[str, Any]]) -> bool:
        """Whether every value of every block is the one of its step and environment."""
        return all(
            (block[name][:, at] == want).all()
            for index, block in self.taken.items()
            for at in range(S)
            for name, want in row(index * S + at).items()
        )


def spoil(given: dict[str, Any]) -> None:
    """Overwrite a step's values, as a simulator does right after ``add_step`` returned."""
    for value in given.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
        elif isinstance(value, np.ndarray):
            value[...] = 0


def host_row(step: int, schema: Schema = SCHEMA) -> dict[str, Any]:
    return {**rows(step, N, schema), VALID_MASK: mask(step, N)}


def record_blocks(
    simulated: SimulatedTorch, schema: Schema = SCHEMA, kind: type[DeviceStaging] = DeviceStaging
) -> bool:
    recording = Recording(schema, kind)
    recording.run(BLOCKS, Simulator(schema).step)
    assert len(recording.taken) == BLOCKS
    assert simulated.cuda.copies_out == BLOCKS
    return recording.is_exact(lambda step: host_row(step, schema))


@pytest.mark.parametrize("schema", [SCHEMA, ALL_DTYPES, CAMERA], ids=["small", "dtypes", "axes"])
def test_every_value_is_that_of_its_step(simulated: SimulatedTorch, schema: Schema) -> None:
    assert record_blocks(simulated, schema)


class WithoutWait(DeviceStaging):
    """The caller's stream does not wait before a device buffer is written again."""

    def begin(self, block: Block) -> None:
        self._copied = [None, None]
        super().begin(block)


class WithoutAfter(DeviceStaging):
    """The side stream does not wait for the rows before it copies a block out."""

    def seal(self, block: Block) -> None:
        self._side.wait_event = lambda event: None
        super().seal(block)


class WithoutSynchronize(DeviceStaging):
    """The host does not wait for a block's copy before it encodes it."""

    def seal(self, block: Block) -> None:
        super().seal(block)
        block.wait_ready = lambda: None


class RowsOnTheSide(DeviceStaging):
    """Rows are copied on the side stream, where the caller's later work may overtake them."""

    def _copy_rows(self, pairs: list[tuple[Any, Any]]) -> None:
        with cuda.torch.cuda.stream(self._side):
            super()._copy_rows(pairs)


@pytest.mark.parametrize(
    ("forgetful", "simulated"),
    [
        (WithoutWait, "caller"),
        (WithoutAfter, "stream-1"),
        (WithoutSynchronize, "caller"),
        (WithoutSynchronize, "stream-1"),
        (RowsOnTheSide, "caller"),
    ],
    indirect=["simulated"],
)
def test_no_wait_can_be_taken_away(
    forgetful: type[DeviceStaging], simulated: SimulatedTorch
) -> None:
    assert not record_blocks(simulated, kind=forgetful)


def test_nothing_of_a_step_is_waited_for_by_the_caller(
    simulated: SimulatedTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a block the host only queues: the machine has not run a single operation."""

    def impatient(event: Any) -> None:
        raise AssertionError("the host waited")

    monkeypatch.setattr(simulated.cuda.Event, "synchronize", impatient)
    recording = Recording()
    block = recording.begin(0)
    recording.stage(block, Simulator(SCHEMA).step)
    recording.seal(block)


def test_two_device_buffers_take_turns(simulated: SimulatedTorch) -> None:
    """The simulator goes on through a whole block while the one before it crosses the bus."""
    recording, simulator, left = Recording(), Simulator(SCHEMA), []
    for index in range(3):
        block = recording.begin(index)
        recording.stage(block, simulator.step)
        recording.seal(block)
        left.append(simulated.cuda.machine.run_alone("caller"))
    assert left[:2] == [0, 0]
    assert left[2] > 0  # only the third block needs the first one's buffer


@pytest.mark.usefixtures("simulated")
def test_numbers_stand_for_all_in_their_turn() -> None:
    """A default is written on the caller's stream like a row, not at once."""

    def row(step: int) -> dict[str, Any]:
        index = step // S
        return {"a": float(index), "b": index, "c": 0.5, VALID_MASK: index % 2 == 0}

    recording = Recording()
    recording.run(4, row)
    assert len(recording.taken) == 4
    assert recording.is_exact(row)


@pytest.mark.usefixtures("simulated")
def test_arrays_and_host_tensors_may_be_overwritten_at_once() -> None:
    recording = Recording()
    recording.run(1, lambda step: {**host_row(step), "a": torch.from_numpy(host_row(step)["a"])})
    assert len(recording.taken) == 1
    assert recording.is_exact(host_row)


@pytest.fixture
def device(simulated: SimulatedTorch, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device name with which writers stage on the simulated machine."""
    monkeypatch.setattr("mosaic_collect.recording.writer.check_device", lambda device: None)
    return "cuda:0"


@pytest.mark.parametrize("encode_in", ["threads", "process"])
@pytest.mark.parametrize("schema", [SCHEMA, CAMERA], ids=["small", "images"])
def test_a_writer_on_the_device_makes_the_same_store(
    store: str, device: str, encode_in: str, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits and a resume fall into blocks, and into the chunks of images."""
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 80)
    simulator, options = Simulator(schema), {"device": device, "encode_in": encode_in}
    for steps in (range(9), range(9, 30)):
        options["resume"] = steps.start > 0
        with open_writer(store, N, schema, block_steps=6, **options) as writer:
            for step in steps:
                writer.add_step(**simulator.step(step))
                spoil(simulator.tensors)
                if step % 7 == 3:
                    writer.end_trajectories([step % N])
                if step % 5 == 4:
                    writer.commit()
                    assert TrajectoryDataset(store).num_steps == step + 1
            arrays: Any = writer._steps.block.arrays  # type: ignore[union-attr]
            assert all(a[0].flags.c_contiguous for a in arrays.values()), "one env is one piece"
    dataset = TrajectoryDataset(store)
    cuts = {"rgb": 3, "depth": 2, "far": 2} if schema is CAMERA else {}
    assert dataset.state.chunk_steps == cuts
    assert_holds(dataset, range(30))
    assert_same(dataset.read(VALID_MASK), np.stack([mask(s, N) for s in range(30)]))
    got = ids(dataset)
    ends = [[s, s % N] for s in range(29) if s % 7 == 3]
    changes = sorted(ends + [[8, env] for env in range(N)])
    assert np.argwhere(got[1:] != got[:-1]).tolist() == changes
    assert len(np.unique(got)) == N + len(changes)
    assert verify_store(store).ok


@pytest.mark.parametrize("commit_every", [1, 3, 99])
def test_ends_on_the_device(store: str, device: str, commit_every: int) -> None:
    """Also those told after their row's commit, of a block on the device in part or as a whole."""
    simulator = Simulator(SCHEMA)
    want = np.zeros((14, N), np.uint8)
    with open_writer(store, N, SCHEMA.with_ends(), block_steps=S, device=device) as writer:
        for step in range(14):
            writer.add_step(**simulator.step(step))
            spoil(simulator.tensors)
            if step % commit_every == 0:
                writer.commit()
            if step % 3 != 1:
                writer.end_trajectories([step % N, (step + 1) % N], [step % N])
                want[step, step % N], want[step, (step + 1) % N] = FAILED, ENDED
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read(TRAJECTORY_END), want)
    assert_holds(dataset, range(14))
    assert dataset.num_ended == np.count_nonzero(want)
    assert dataset.num_valid == sum(mask(s, N).sum() for s in range(14))
    assert verify_store(store).ok


def test_a_ring_that_another_process_sees_is_page_locked_while_it_is_used(
    store: str, device: str, simulated: SimulatedTorch
) -> None:
    with open_writer(store, N, SCHEMA, device=device, encode_in="process") as writer:
        assert sum(simulated.cuda.pinned.values()) >= writer.ring_nbytes
        add(writer, *range(4))
    assert simulated.cuda.pinned == {}
    assert_holds(TrajectoryDataset(store), range(4))


def test_a_ring_that_the_driver_does_not_lock_is_its_own(
    store: str,
    device: str,
    simulated: SimulatedTorch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(simulated.cuda, "cudaHostRegister", lambda *args: 2)
    with open_writer(store, N, SCHEMA, device=device, encode_in="process") as writer:
        add(writer, *range(9))
    assert "cudaHostRegister of" in caplog.text
    assert "bytes: error 2; encoding in threads" in caplog.text
    assert simulated.errors_seen == 1, "the caller's next kernel does not raise it"
    assert_holds(TrajectoryDataset(store), range(9))


def test_an_opening_that_fails_unlocks_the_ring(
    store: str, device: str, simulated: SimulatedTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[int] = []

    def full(*args: Any) -> None:
        pinned.extend(simulated.cuda.pinned.values())
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("mosaic_collect.store.commit.Store.begin", full)
    with pytest.raises(WriteError, match="full"):
        open_writer(store, N, SCHEMA, device=device, encode_in="process")
    assert len(pinned) == 1
    assert simulated.cuda.pinned == {}


@pytest.mark.parametrize("stride", [1, 3, 4, 6])
def test_resumes_on_the_device(store: str, device: str, stride: int) -> None:
    open_writer(store, N, SCHEMA, block_steps=S).close()
    simulator = Simulator(SCHEMA)
    for first in range(0, 12, stride):
        with TrajectoryWriter(store, resume=True, device=device) as writer:
            for step in range(first, first + stride):
                writer.add_step(**simulator.step(step))
                spoil(simulator.tensors)
        assert_holds(TrajectoryDataset(store), range(first + stride))
    with TrajectoryWriter(store, resume=True) as writer:  # and on the host again
        add(writer, 12)
    assert_holds(TrajectoryDataset(store), range(13))


@ALL_STREAMS
def test_a_caller_may_change_its_stream_at_any_step(simulated: SimulatedTorch) -> None:
    """Arrays and numbers need no order of their own: each must find the buffer free all the same.

    What is queued for a block must not reach the values that are still copied out of its buffer.
    """

    def row(step: int) -> dict[str, Any]:
        return {**rows(step, N, SCHEMA), "b": step, VALID_MASK: step % 3 == 0}

    class OnTwoStreams(DeviceStaging):
        def stage(self, block: Block, rows: Mapping[str, Any]) -> None:
            with simulated.cuda.stream(streams[block.count % 2]):
                super().stage(block, rows)

    recording = Recording(kind=OnTwoStreams)
    streams = [simulated.cuda.Stream(), simulated.cuda.Stream()]
    recording.run(BLOCKS, row)
    assert len(recording.taken) == BLOCKS
    assert recording.is_exact(row)


@ALL_STREAMS
def test_nothing_is_under_way_to_memory_that_was_given_back(simulated: SimulatedTorch) -> None:
    """Rows behind the last block that was copied out are waited for, too."""
    recording = Recording()
    block = recording.begin(0)
    with simulated.cuda.stream(simulated.cuda.Stream()):
        recording.stage(block, host_row, steps=2)
    assert simulated.cuda.machine.left > 0
    recording.staging.close()
    assert simulated.cuda.machine.left == 0
    recording.staging.close()


MODES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("inside", ["opening", "steps", "commit", "close"])
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_the_callers_thread_change_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, mode: str, inside: str
) -> None:
    """A mode may be entered and left between any two calls of a writer."""
    monkeypatch.setattr(cuda, "torch", SimulatedTorch())
    monkeypatch.setattr("mosaic_collect.recording.writer.check_device", lambda device: None)

    def now(call: str) -> Any:
        return MODES[mode]() if inside == call else contextlib.nullcontext()

    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    options = {"device": "cuda", "encode_in": "threads", "block_steps": S}
    for steps in (range(6), range(6, 10)):
        with now("opening"):
            writer = open_writer(store, N, SCHEMA, resume=steps.start > 0, **options)
        for step in steps:
            row = {n: torch.from_numpy(v) for n, v in rows(step, N, SCHEMA).items()}
            row["a"].requires_grad_()
            with now("steps"):
                writer.add_step(**row)
        with now("commit"):
            writer.commit()
        with now("close"):
            writer.close()
    assert_holds(TrajectoryDataset(store), range(10))


def test_a_device_without_room_for_the_blocks_of_a_store(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed store's blocks have their size, and torch says in its own words what is missing."""
    with open_writer(store, N, SCHEMA, block_steps=S) as writer:
        add(writer, 0)
    simulated = SimulatedTorch()

    def empty(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(simulated, "empty", empty, raising=False)
    monkeypatch.setattr(cuda, "torch", simulated)
    monkeypatch.setattr("mosaic_collect.recording.writer.check_device", lambda device: None)
    for encode_in in ("threads", "process"):
        with pytest.raises(SpaceError, match=r"two blocks of 0\.0 MB on the GPU.*stage on the CPU"):
            open_writer(store, N, SCHEMA, resume=True, device="cuda:0", encode_in=encode_in)
    with open_writer(store, N, SCHEMA, resume=True) as writer:
        add(writer, 1)
    assert_holds(TrajectoryDataset(store), range(2))


def test_a_device_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may be the current one later."""
    simulated = SimulatedTorch()
    monkeypatch.setattr(simulated.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(cuda, "torch", simulated)
    grids = {f.name: FieldGrid(f, N, S, chunk_envs=2) for f in SCHEMA.stored}
    assert DeviceStaging(grids, N, "cuda")._device == torch.device("cuda:3")
    assert DeviceStaging(grids, N, "cuda:1")._device == torch.device("cuda:1")
