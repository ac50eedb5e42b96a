"""Steps whose every value says where it belongs, and stores made of them.

A value encodes step, environment, field and feature, so that a row that lands in a wrong place is
seen. Floats hold whole numbers that every precision in use holds exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mosaic_collect
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.recording.writer import TrajectoryWriter
from mosaic_collect.store.codec import Compressor, crc_bytes
from mosaic_collect.store.metadata import ATTRIBUTE, Run, StoreState, checksum
from mosaic_collect.store.schema import DTYPES, TRAJECTORY_ID, VALID_MASK, Field, Schema
from mosaic_collect.store.shard import LABEL_NBYTES, ShardLabel, write_chunks

SMALL = Schema.mosaic(obs_dim=3, action_dim=2)
#: One required field per dtype and rank.
ALL_DTYPES = Schema(
    tuple(Field(name=f"a_{d}", dim=3, dtype=d) for d in DTYPES)
    + tuple(Field(name=f"b_{d}", dtype=d) for d in DTYPES)
)
#: Fields of several axes beside others, one of them a stand-in.
CAMERA = Schema(
    (
        Field(name="rgb", dim=(4, 3, 2), dtype="uint8"),
        Field(name="depth", dim=(2, 5)),
        Field(name="far", dim=(2, 5), default="depth"),
        Field(name="reward"),
        Field(name="joints", dim=3),
    )
)
REPO = os.path.dirname(os.path.dirname(os.path.abspath(mosaic_collect.__file__)))


def values(field: Field, place: int, step: int, num_envs: int) -> np.ndarray:
    """One step of the field that stands at ``place`` in its schema: ``(num_envs[, dim])``."""
    shape = (num_envs, *field.row_shape)
    inside = np.arange(np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)
    code = (place + 1) * 100_003 + step * 997 + inside
    dtype = np.dtype(field.dtype)
    if dtype.kind == "b":
        return code * 2654435761 >> 7 & 1 == 1
    if dtype.kind in "iu":
        return (code % min(int(np.iinfo(dtype).max) + 1, 2**31)).astype(dtype)
    # float16 holds whole numbers up to 2048.
    return (code % 2039 - 1000 if dtype.itemsize == 2 else code).astype(dtype)


def rows(step: int, num_envs: int, schema: Schema = SMALL) -> dict[str, np.ndarray]:
    """One step of all the caller's fields."""
    return {
        f.name: values(f, i, step, num_envs)
        for i, f in enumerate(schema.fields)
        if f.name in schema.names
    }


def mask(step: int, num_envs: int) -> np.ndarray:
    """A mask that differs from step to step, with both values in it where N > 1."""
    return (np.arange(num_envs) + step) % 3 != 1


def expected(steps: range | list[int], num_envs: int, schema: Schema = SMALL) -> dict[str, Any]:
    """What the caller's fields of a store of these steps hold, ``(T, N[, D])``."""
    shapes = {name: (0, num_envs, *schema[name].row_shape) for name in schema.names}
    stacks: dict[str, list[np.ndarray]] = {n: [] for n in shapes}
    for step in steps:
        for name, value in rows(step, num_envs, schema).items():
            stacks[name].append(value)
    return {
        n: np.stack(s) if s else np.zeros(shapes[n], schema[n].dtype) for n, s in stacks.items()
    }


def motion_arrays(
    joint_pos: np.ndarray, bodies: int = 2, fps: float | None = 50.0
) -> dict[str, np.ndarray]:
    """A motion file's arrays: joints ``(T, J)`` as they are given, bodies one above the other."""
    joint_pos = np.asarray(joint_pos, np.float32)
    pos = np.zeros((len(joint_pos), bodies, 3), np.float32)
    pos[..., 2] = np.arange(bodies)
    quat = np.zeros((len(joint_pos), bodies, 4), np.float32)
    quat[..., 0] = 1.0
    arrays = {
        "joint_pos": joint_pos,
        "joint_vel": np.diff(joint_pos, axis=0, prepend=joint_pos[:1]) * np.float32(fps or 1.0),
        "body_pos_w": pos,
        "body_quat_w": quat,
        "body_lin_vel_w": np.zeros_like(pos),
        "body_ang_vel_w": np.zeros_like(pos),
    }
    return arrays if fps is None else {**arrays, "fps": np.array([fps])}


def encoded_chunk(codec: Compressor, values: np.ndarray) -> tuple[list[Any], bytes]:
    """A chunk's buffers and checksum."""
    payload = codec.compress(values)
    return [payload], crc_bytes(payload)


def one_block(field: Field, codec: Compressor, num_envs: int, steps: int) -> StoreState:
    """State of a store of one field and one full block, in chunks of two environments."""
    schema = Schema((field,))
    return StoreState(
        schema=schema,
        num_envs=num_envs,
        block_steps=steps,
        chunk_envs=dict.fromkeys(schema.stored_names, 2),
        compressor=codec,
        committed_steps=steps,
        runs=(Run(first_step=0, open_envs="", started="", versions={}, key="0f" * 8),),
        identity="a0" * 16,
    )


def one_shard(state: StoreState, name: str, chunks: Iterable[np.ndarray], block: int = 0) -> bytes:
    """Bytes of the shard of a block, with its label."""
    written = [ShardLabel.of(state, name, block).pack()]
    encoded = ((*encoded_chunk(state.compressor, chunk), 0) for chunk in chunks)
    write_chunks(encoded, lambda buffers: written.extend(map(bytes, buffers)), LABEL_NBYTES)
    return b"".join(written)


def buffer_mb(block_steps: int, num_envs: int, schema: Schema = SMALL) -> float:
    """The ``buffer_mb`` that gives a ring of three blocks of so many steps."""
    return (3 * block_steps + 1) * schema.pair_nbytes * num_envs / 1e6


def open_writer(
    path: Any, num_envs: int = 4, schema: Schema = SMALL, block_steps: int = 3, **options: Any
) -> TrajectoryWriter:
    """A writer with blocks of a few steps that commits when it is told to, and only then."""
    options.setdefault("buffer_mb", buffer_mb(block_steps, num_envs, schema))
    options.setdefault("commit_seconds", None)
    options.setdefault("threads", 2)
    return TrajectoryWriter(path, schema, num_envs, **options)


def add(writer: TrajectoryWriter, *steps: int, masks: bool = False) -> None:
    """Add these steps."""
    for step in steps:
        given = {VALID_MASK: mask(step, writer.num_envs)} if masks else {}
        writer.add_step(**rows(step, writer.num_envs, writer.schema), **given)


def record(path: Any, steps: int, masks: bool = False, **options: Any) -> TrajectoryDataset:
    """A complete store of ``steps`` steps; options as ``open_writer``'s."""
    with open_writer(path, **options) as writer:
        add(writer, *range(steps), masks=masks)
    return TrajectoryDataset(path)


def altered(store: str, alter: Callable[[dict[str, np.ndarray]], None]) -> str:
    """A copy of a store with other values: ``alter`` changes arrays ``(T, N[, D])`` in place."""
    dataset = TrajectoryDataset(store)
    arrays = {name: dataset.read(name) for name in dataset.fields}
    alter(arrays)
    copy, options = store + ".altered", {"metadata": dataset.metadata}
    with open_writer(copy, dataset.num_envs, dataset.schema, **options) as writer:
        for step in range(dataset.num_steps):
            row = {name: arrays[name][step] for name in dataset.schema.names}
            writer.add_step(**row, valid_mask=arrays[VALID_MASK][step])
            if step + 1 < dataset.num_steps:
                changed = arrays[TRAJECTORY_ID][step] != arrays[TRAJECTORY_ID][step + 1]
                writer.end_trajectories(changed)
    return copy


def assert_same(got: Any, want: np.ndarray, what: str = "") -> None:
    """Same shape, type and bits, NaN included."""
    got = np.asarray(got)
    assert got.shape == want.shape, what
    assert got.dtype == want.dtype, what
    if got.tobytes() != want.tobytes():
        np.testing.assert_array_equal(got, want, err_msg=what)
        raise AssertionError(f"{what}: equal values, other bits")


def assert_holds(dataset: TrajectoryDataset, steps: range | list[int]) -> None:
    """The dataset's rows are those of ``rows`` for these steps, whatever masks and ids are."""
    want = expected(steps, dataset.num_envs, dataset.schema)
    assert dataset.num_steps == len(steps)
    for name in want:
        assert_same(dataset.read(name), want[name], name)


def ids(dataset: TrajectoryDataset) -> np.ndarray:
    """All trajectory ids, ``(T, N)``."""
    return dataset.read(TRAJECTORY_ID)


def contents(folder: Any, pattern: str = "*") -> dict[str, bytes]:
    """All files below a folder whose names match, by their path in it."""
    paths = [path for path in Path(folder).rglob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def edit_state(store: Any, is_sealed: bool = True, **changes: Any) -> None:
    """Change the state in a root document, and its checksum to fit, or leave that as it was."""
    path = Path(store, "zarr.json")
    root = json.loads(path.read_text())
    state = root["attributes"][ATTRIBUTE]
    state.update(changes)
    if is_sealed:
        state["checksum"] = checksum(state)
    path.write_text(json.dumps(root))


@contextlib.contextmanager
def memory_within(nbytes: float) -> Iterator[None]:
    """No more is allocated inside at a time, NumPy's memory included."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when a condition holds, however slow the machine is; fail if it never does."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def run_python(code: str, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run code in another interpreter that can import the package under test and the helpers."""
    return _run("-c", code, *args, timeout=timeout)


def run_cli(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with these variables in its environment."""
    return _run("-m", "mosaic_collect", *words, **environ)


def _run(*python: str, timeout: float = 300, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python],
        env={**os.environ, "PYTHONPATH": REPO, "PYTHONWARNINGS": "error", **environ},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def open_files() -> set[tuple[str, str]]:
    """This process's descriptors and what they lead to, but for looks at processes.

    Threads of other tests' libraries, a cluster's for one, take those now and then.
    """
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return {(fd, path) for fd, path in found if not path.startswith("/proc/")}


def label_shards(dataset: TrajectoryDataset) -> None:
    """Give the shards that another tool wrote their labels: 64 bytes in front of their chunks."""
    state = dataset.state
    for name, grid in state.grids().items():
        for block in range(state.num_blocks):
            path = os.path.join(dataset.path, grid.shard_key(block))
            with open(path, "rb") as file:
                data = file.read()
            end = len(data) - 16 * grid.chunks - 4
            index = np.frombuffer(data[end:-4], "<u8").reshape(grid.chunks, 2).copy()
            index[index[:, 0] != 2**64 - 1, 0] += np.uint64(LABEL_NBYTES)
            label = ShardLabel.of(state, name, block).pack()
            with open(path, "wb") as file:
                file.write(label + data[:end] + index.tobytes() + crc_bytes(index.tobytes()))
