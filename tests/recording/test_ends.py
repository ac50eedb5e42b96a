"""``trajectory_end``: how each trajectory ended, at its last row, wherever commits fall."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter, export_npy
from mosaic_collect.errors import InputError
from mosaic_collect.look.inspect import summarize
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.reading.verify import verify_store
from mosaic_collect.recording.blocks import Block
from mosaic_collect.recording.encoder import BlockEncoder
from mosaic_collect.recording.pipeline import Pipeline
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import (
    END_FIELD,
    ENDED,
    FAILED,
    GOES_ON,
    TERMINATED,
    TRAJECTORY_END,
    TRUNCATED,
)
from tests.helpers import SMALL, add, assert_same, ids, mask, open_writer, rows

N = 4
SCHEMA = SMALL.with_ends()


def open_ends(store: str, **options: object) -> TrajectoryWriter:
    return open_writer(store, N, SCHEMA, **options)  # type: ignore[arg-type]


def add_own(writer: TrajectoryWriter, *steps: int) -> None:
    """Steps of all fields that a caller gives, with masks, one pair of each holding NaN."""
    for step in steps:
        given = {n: v for n, v in rows(step, N).items() if n in writer.schema.names}
        given["observations"][step % N, 0] = np.nan
        writer.add_step(**given, valid_mask=mask(step, N))


def ends(store: str) -> np.ndarray:
    return TrajectoryDataset(store).read(TRAJECTORY_END)


def assert_ends(store: str, steps: int, *told: tuple[int, int, int]) -> None:
    """The field holds just these (step, env, how), rows and counts are whole, and verify agrees."""
    want = np.zeros((steps, N), np.uint8)
    for step, env, how in told:
        want[step, env] = how
    np.testing.assert_array_equal(ends(store), want)
    dataset = TrajectoryDataset(store)
    assert dataset.num_ended == len(told)
    assert dataset.num_valid == sum(mask(s, N).sum() for s in range(steps))
    assert dataset.state.nonfinite["observations"] == steps
    for step in range(steps):
        row = rows(step, N)["actions"]
        np.testing.assert_array_equal(dataset.read("actions", step, step + 1)[0], row)
    assert verify_store(store).problems == ()


# -- the schema ----------------------------------------------------------------------------------


def test_the_field_stands_behind_the_callers_own() -> None:
    assert SCHEMA.fields == (*SMALL.fields, END_FIELD)
    assert (END_FIELD.dtype, END_FIELD.dim, END_FIELD.default) == ("uint8", None, 0)
    assert SCHEMA.names == SMALL.names, "a caller does not give it"
    assert SCHEMA.has_ends
    assert not SMALL.has_ends
    assert SCHEMA.with_ends() == SCHEMA


@pytest.mark.parametrize(
    "field",
    [
        Field(name=TRAJECTORY_END),
        Field(name=TRAJECTORY_END, dtype="uint8"),
        Field(name=TRAJECTORY_END, dtype="uint8", dim=1, default=0),
        Field(name="Trajectory_End", dtype="uint8", default=0),
    ],
)
def test_its_name_is_reserved(field: Field) -> None:
    with pytest.raises(InputError, match=r"with_ends\(\)"):
        SMALL.with_fields(field)


def test_alone_it_is_no_schema() -> None:
    with pytest.raises(InputError, match="no fields"):
        Schema((END_FIELD,))


# -- what a caller may say -----------------------------------------------------------------------


def tensor(values: Any, **options: Any) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed; arrays are tested without")
    options = {name: getattr(torch, value) for name, value in options.items()}
    return torch.tensor(values, **options)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (list, []),
        (lambda: [2], [2]),
        (lambda: 1, [1]),
        (lambda: np.int32(3), [3]),
        (lambda: [3, 1], [1, 3]),
        (lambda: (1, 0), [0, 1]),
        (lambda: range(4), [0, 1, 2, 3]),
        (lambda: np.array([0, 2], np.uint8), [0, 2]),
        (lambda: np.array([[1], [2]]), [1, 2]),
        (lambda: np.array([True, False, False, True]), [0, 3]),
        (lambda: [True, False, True, False], [0, 2]),
        (lambda: np.zeros(N, bool), []),
        (lambda: tensor([2, 0]), [0, 2]),
        (lambda: tensor([[1], [3]]), [1, 3]),
        (lambda: tensor([True, False, False, True]), [0, 3]),
        (lambda: tensor([], dtype="int64"), []),
        (lambda: tensor(2), [2]),
        (lambda: [tensor(1), tensor(2)], [1, 2]),
    ],
)
def test_environments_are_ids_or_a_mask_and_are_read_at_once(
    store: str, given: Callable[[], Any], want: list[int]
) -> None:
    """Those that failed have the same forms."""
    with open_ends(store) as writer:
        for step, named in enumerate(("env_ids", "failed")):
            add_own(writer, step)
            value = given()
            all_of_them = {} if named == "env_ids" else {"env_ids": range(N)}
            writer.end_trajectories(**all_of_them, **{named: value})
            if isinstance(value, np.ndarray):
                value[...] = 0
    told = [(0, env, ENDED) for env in want]
    told += [(1, env, FAILED if env in want else ENDED) for env in range(N)]
    assert_ends(store, 2, *told)


def test_of_two_environments_a_list_or_a_number_is_ids(store: str) -> None:
    with open_writer(store, 2) as writer:
        for step, envs in enumerate(([0, 1], (1, 0), range(2), 0, np.int64(1))):
            add(writer, step)
            writer.end_trajectories(envs)
    assert TrajectoryDataset(store).num_ended == 8


@pytest.mark.parametrize(
    ("num_envs", "flags"),
    [(1, [0]), (1, [1]), (2, [0, 1]), (2, [1, 0]), (2, [0, 0]), (3, [1, 0, 0])],
)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("argument", ["env_ids", "failed"])
def test_flags_of_a_whole_number_type_end_no_trajectory(
    store: str, num_envs: int, flags: list[int], dtype: str, argument: str
) -> None:
    """rsl_rl's dones are int64: of one or two environments they could be ids."""
    array = np.array(flags, dtype)
    with open_writer(store, num_envs, SCHEMA) as writer:
        add(writer, 0)
        for value in (array, tensor(flags, dtype=dtype), array[:, None]):
            given = {"env_ids": np.ones(num_envs, bool), argument: value}
            with pytest.raises(InputError, match=f"{argument}: .* flags of all environments must"):
                writer.end_trajectories(**given)
        writer.end_trajectories(dones=array, time_outs=array)
    assert TrajectoryDataset(store).num_ended == sum(flags)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32, "bfloat16"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_flags_of_all_environments(store: str, dtype: Any, num_envs: int) -> None:
    """As simulators give them, of whatever type; with one environment, too."""

    def flags(value: bool) -> Any:
        if dtype == "bfloat16":  # which NumPy lacks
            return tensor([float(value)] * num_envs, dtype=dtype)
        return np.full(num_envs, value).astype(dtype)

    with open_writer(store, num_envs, SCHEMA) as writer:
        for step, done in enumerate([0, 1, 0, 1, 1]):
            add(writer, step)
            time_outs = flags(step == 3) if step > 1 else None
            writer.end_trajectories(dones=flags(bool(done)), time_outs=time_outs)
    dataset = TrajectoryDataset(store)
    assert dataset.num_ended == 3 * num_envs
    got = dataset.read(TRAJECTORY_END)
    assert got[:, 0].tolist() == [GOES_ON, ENDED, GOES_ON, TRUNCATED, TERMINATED]
    assert (got == got[:, :1]).all()


def test_gymnasiums_flags(store: str) -> None:
    """Terminal states and time-outs; both at once is a terminal state; a failure is one, too."""
    with open_ends(store) as writer:
        add(writer, 0)
        writer.end_trajectories(terminated=[1, 0, 1, 0], truncated=[0, 1, 1, 0])
        add(writer, 1)
        writer.end_trajectories(terminated=np.array([1, 1, 0, 0]), failed=[1])
        add(writer, 2)
        writer.end_trajectories([0, 3], truncated=[3])
    dataset = TrajectoryDataset(store)
    assert dataset.read(TRAJECTORY_END).tolist() == [
        [TERMINATED, TRUNCATED, TERMINATED, GOES_ON],
        [TERMINATED, FAILED, GOES_ON, GOES_ON],
        [ENDED, GOES_ON, GOES_ON, TRUNCATED],
    ]
    counts = {"terminated": 3, "truncated": 2, "failed": 1, "ended": 1, "interrupted": 2}
    assert dataset.trajectories.counts() == counts
    assert {t.end for t in dataset.where(end="terminated")} == {"terminated", "failed"}
    assert len(dataset.where(end="terminated")) == 4


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "env_ids: expected whole numbers or a bool mask, got None"),
        ({"env_ids": [N]}, r"env_ids: expected 0\.\.3, got 4\.\.4"),
        ({"env_ids": [-1, 0]}, r"env_ids: expected 0\.\.3, got -1\.\.0"),
        ({"env_ids": lambda: tensor([0.0], dtype="bfloat16")}, "env_ids: expected whole numbers"),
        ({"env_ids": [0.0]}, "env_ids: expected whole numbers"),
        ({"env_ids": ["0"]}, "env_ids: expected whole numbers"),
        ({"env_ids": [2**70]}, "env_ids"),
        ({"env_ids": [[0], [0, 1]]}, "env_ids"),
        ({"env_ids": [True]}, "env_ids: expected a mask of shape"),
        ({"env_ids": np.ones((N, 1), bool)}, r"env_ids: .*\(4, 1\)"),
        ({"env_ids": [0, 1], "failed": [2]}, r"failed: expected some of env_ids, got \[2\]"),
        ({"env_ids": [0, 1], "failed": np.ones(N, bool)}, r"some of env_ids, got \[2, 3\]"),
        ({"env_ids": [0, 1], "failed": [N]}, r"failed: expected 0\.\.3"),
        ({"env_ids": [0, 1], "failed": [0.5]}, "failed: expected whole numbers"),
        ({"env_ids": [0, 1], "failed": [True]}, "failed: expected a mask"),
        ({"env_ids": [0, 1], "failed": [1, 1]}, "failed: an id is there twice"),
        ({"env_ids": [1], "truncated": [0]}, "truncated: expected some of env_ids"),
        ({"time_outs": [0, 1, 0, 0]}, "expected dones"),
        ({"dones": [0, 1, 0, 0], "env_ids": [0]}, "expected dones"),
        ({"dones": [0, 1, 0, 0], "truncated": [0, 1, 0, 0]}, "expected dones"),
        ({"dones": [0, 1, 0, 0], "failed": [0]}, "failed: expected some of env_ids"),
        ({"dones": [0, 1, 0]}, r"dones: expected flags of shape \(4,\), got int64 \(3,\)"),
        ({"dones": [0, 2, 0, 0]}, r"dones: expected 0 and 1, got \[0, 2\]"),
        ({"dones": [True] * N, "time_outs": ["a"] * N}, "time_outs: expected flags"),
        ({"terminated": [0, 2, 0, 0]}, r"terminated: expected 0 and 1, got \[0, 2\]"),
        ({"truncated": [1]}, r"truncated: expected flags of shape \(4,\)"),
    ],
)
def test_bad_ones_are_refused_and_end_nothing(store: str, told: dict[str, Any], words: str) -> None:
    told = {name: value() if callable(value) else value for name, value in told.items()}
    with open_ends(store) as writer:
        add_own(writer, 0)
        with pytest.raises(InputError, match=words):
            writer.end_trajectories(**told)
        add_own(writer, 1)
    assert_ends(store, 2)
    assert (ids(TrajectoryDataset(store)) == range(N)).all()


def test_metadata_come_with_the_ends_or_not_at_all(store: str) -> None:
    with open_ends(store) as writer:
        add_own(writer, 0)
        writer.end_trajectories([], metadata={"ended": 0})
        with pytest.raises(InputError, match="metadata: expected values that JSON can hold"):
            writer.end_trajectories([1], metadata={"ended": object()})
        assert writer.metadata == {"ended": 0}
        writer.commit()
        assert TrajectoryDataset(store).num_ended == 0
        writer.end_trajectories([1], metadata={"ended": 1})
    assert_ends(store, 1, (0, 1, ENDED))
    assert TrajectoryDataset(store).metadata == {"ended": 1}


def test_a_store_without_the_field_says_how_to_get_it(store: str) -> None:
    with open_writer(store, N) as writer:
        add(writer, 0)
        with pytest.raises(InputError, match=r"Schema\.with_ends\(\)"):
            writer.end_trajectories([0], [])
        with pytest.raises(InputError, match="truncated: expected None, for the store has no"):
            writer.end_trajectories(dones=[0, 1, 0, 0], time_outs=[0, 1, 0, 0])
        writer.end_trajectories([0], None)
        add(writer, 1)
    dataset = TrajectoryDataset(store)
    assert dataset.num_ended == 1
    assert TRAJECTORY_END not in dataset.fields


def test_the_first_end_of_a_step_counts(store: str) -> None:
    """Ends before any step, ends told again, and ends after a resume do nothing."""
    with open_ends(store) as writer:
        writer.end_trajectories(range(N), range(N))
        add_own(writer, 0)
        writer.end_trajectories([0, 1], [0])
        writer.end_trajectories([0, 1, 2], [1, 2])
        writer.end_trajectories(np.array([True, False, False, False]))
        add_own(writer, 1)
    with TrajectoryWriter(store, resume=True) as writer:
        writer.end_trajectories(range(N), range(N))
        writer.commit()
        add_own(writer, 2)
        writer.end_trajectories([3], [3])
    assert_ends(store, 3, (0, 0, FAILED), (0, 1, ENDED), (0, 2, FAILED), (2, 3, FAILED))
    got = ids(TrajectoryDataset(store))
    assert got[:2].tolist() == [[0, 1, 2, 3], [N, N + 1, N + 2, 3]]
    assert got[2].min() > got[1].max()


# -- commits between ------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [SMALL, SCHEMA], ids=["ids alone", "ends"])
@pytest.mark.parametrize("more", [0, 1, 4])
@pytest.mark.parametrize("when", ["never", "before", "after", "both"])
@pytest.mark.parametrize("steps", range(1, 8))
def test_an_end_belongs_to_the_last_added_step_wherever_blocks_and_commits_end(
    store: str, steps: int, when: str, more: int, schema: Schema
) -> None:
    """Told after its row's commit: the block, partly filled or full, is committed again."""

    def check(added: int) -> None:
        dataset = TrajectoryDataset(store)
        want = np.tile(np.arange(N), (added, 1))
        want[steps:, :2] = [N, N + 1]
        assert_same(ids(dataset), want)
        assert dataset.num_ended == 2
        if schema is SCHEMA:
            assert_ends(store, added, (steps - 1, 0, ENDED), (steps - 1, 1, FAILED))

    with open_writer(store, N, schema) as writer:
        add_own(writer, *range(steps))
        if when in ("before", "both"):
            writer.commit()
        writer.end_trajectories([0, 1], [1] if schema is SCHEMA else None)
        if when in ("after", "both"):
            writer.commit()
            check(steps)
        add_own(writer, *range(steps, steps + more))
    check(steps + more)


def test_ends_told_one_after_another(store: str) -> None:
    """Each with a commit of its own; the counts of the block must not grow with them."""
    with open_ends(store) as writer:
        add_own(writer, 0, 1, 2)
        for env in range(N):
            writer.end_trajectories([env], [env] if env % 2 else [])
            writer.commit()
        add_own(writer, 3)
    told = [(2, env, FAILED if env % 2 else ENDED) for env in range(N)]
    assert_ends(store, 4, *told)


@pytest.mark.parametrize("schema", [SMALL, SCHEMA], ids=["ids alone", "ends"])
def test_only_the_field_of_the_ends_is_written_again(store: str, schema: Schema) -> None:
    """A file that replaced another has an inode of its own."""

    def shards() -> dict[str, int]:
        return {str(p.relative_to(store)): p.stat().st_ino for p in Path(store).rglob("c.*")}

    with open_writer(store, N, schema) as writer:
        add_own(writer, 0, 1)
        writer.commit()
        before = shards()
        writer.end_trajectories([0])
        writer.commit()
        changed = {Path(path).parent.name for path, _ in shards().items() - before.items()}
    assert changed == ({TRAJECTORY_END} if schema is SCHEMA else set())


class Gate:
    """Holds the encoder at a block's chunks, and sees whether ends change there meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.changed: list[bool] = []
        encode = BlockEncoder.encode

        def waiting(encoder: BlockEncoder, task: Any) -> Any:
            self._wait(encoder)
            return encode(encoder, task)

        monkeypatch.setattr(BlockEncoder, "encode", waiting)

    def _wait(self, encoder: BlockEncoder) -> None:
        ends = encoder._block.arrays[TRAJECTORY_END]
        before = ends.copy()
        self.reached.set()
        assert self.opened.wait(300)
        self.changed.append(bool((ends != before).any()))

    def assert_waits(self, call: Callable[[], object]) -> None:
        """The call returns when the gate is opened, and not before; nothing changed by then."""
        assert self.reached.wait(300)
        caller = threading.Thread(target=call)
        caller.start()
        caller.join(0.2)
        assert caller.is_alive()
        self.opened.set()
        caller.join(300)
        assert not caller.is_alive()
        assert self.changed
        assert not any(self.changed)


@pytest.mark.parametrize("steps", [1, 3])
def test_no_byte_changes_while_the_block_is_encoded(
    store: str, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """An end waits for a commit that reads the last row."""
    gate = Gate(monkeypatch)
    with open_ends(store, threads=1) as writer:
        add_own(writer, *range(steps))
        writer._steps.commit(wait=False)
        gate.assert_waits(lambda: writer.end_trajectories([0], [0]))
    assert_ends(store, steps, (steps - 1, 0, FAILED))


def test_nor_of_a_full_block_that_an_interrupted_add_step_left(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is queued, and is the current one still."""
    gate = Gate(monkeypatch)
    with open_ends(store, threads=1) as writer:
        add_own(writer, 0, 1, 2)
        queue = Pipeline.queue
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "queue", lambda *a: (queue(*a), _interrupt()))
            with pytest.raises(KeyboardInterrupt):
                add_own(writer, 3)
        gate.assert_waits(lambda: writer.end_trajectories([0], [0]))
        add_own(writer, 3)
    assert_ends(store, 4, (2, 0, FAILED))


@pytest.mark.parametrize("buffer_mb", [None, 0.0002])
@pytest.mark.parametrize("where", ["_free_block", "begin", "stage"])
def test_an_end_after_an_add_step_that_was_interrupted_at_a_blocks_border(
    store: str, monkeypatch: pytest.MonkeyPatch, where: str, buffer_mb: float | None
) -> None:
    """The block with the last row was handed over already, and its slot perhaps used again."""
    options = {} if buffer_mb is None else {"buffer_mb": buffer_mb}
    with open_ends(store, **options) as writer:
        border = writer.block_steps
        assert (buffer_mb is None) or len(writer._pipeline.free) == 1
        add_own(writer, 0)
        writer.end_trajectories([1])
        add_own(writer, *range(1, border))
        home = writer._steps if where == "_free_block" else writer._pipeline.staging
        with monkeypatch.context() as patch:
            patch.setattr(home, where, _interrupt)
            with pytest.raises(KeyboardInterrupt):
                add_own(writer, border)
        assert writer.num_steps == border
        writer.end_trajectories([0, 2], [2])
        writer.end_trajectories([3])
        writer.commit()
        told = [(border - 1, 0, ENDED), (border - 1, 2, FAILED), (border - 1, 3, ENDED)]
        told.append((0, 1, ENDED))
        assert_ends(store, border, *told)
        add_own(writer, *range(border, 3 * border + 1))
    assert_ends(store, 3 * border + 1, *told)
    got = ids(TrajectoryDataset(store))
    assert (got[border - 1] != got[border]).tolist() == [True, border == 1, True, True]


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_nothing_of_it_is_left_in_a_slot_that_is_used_again(store: str) -> None:
    with open_ends(store, block_steps=1) as writer:
        for step in range(9):
            add_own(writer, step)
            if step < 3:
                writer.end_trajectories(range(N), [step])
    told = [(s, e, FAILED if e == s else ENDED) for s in range(3) for e in range(N)]
    assert_ends(store, 9, *told)


# -- what verify says ------------------------------------------------------------------------------


def forge(monkeypatch: pytest.MonkeyPatch, *changes: tuple[int, int, int]) -> None:
    """Let blocks be encoded with other ends, (step, env, value), than the writer put there."""
    write = Pipeline._write

    def forged(self: Pipeline, state: StoreState, block: Block, *rest: Any) -> Any:
        for step, env, value in changes:
            if step // state.block_steps == block.index:
                block.arrays[TRAJECTORY_END][env, step % state.block_steps] = value
        return write(self, state, block, *rest)

    monkeypatch.setattr(Pipeline, "_write", forged)


def record_forged(store: str, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Record nine steps and three ends, with one of them changed in the shards; None: none."""
    forge(monkeypatch, *([change] if change else []))
    with open_ends(store) as writer:
        for step in range(9):
            add_own(writer, step)
            writer.end_trajectories({4: [0], 5: [2], 8: [3]}.get(step, []))


FORGED = [
    ((2, 1, 1), r"block 0: step 2, env 1: an end, but the trajectory goes on"),
    ((6, 1, 2), r"block 2: step 6, env 1: an end, but the trajectory goes on"),
    ((4, 0, 0), r"block 1: step 4, env 0: no end, but another trajectory follows"),
    ((5, 2, 0), r"block 1: step 5, env 2: no end, but another trajectory follows"),
    ((4, 0, 5), r"block 1: expected 0\.\.4"),
    ((8, 3, 0), r"2 ends, metadata says 3"),
    (None, ""),
]


@pytest.mark.parametrize(("change", "words"), FORGED)
def test_verify_finds_ends_that_contradict_the_ids(
    store: str, monkeypatch: pytest.MonkeyPatch, change: tuple[int, int, int] | None, words: str
) -> None:
    record_forged(store, monkeypatch, change)
    found = " ".join(verify_store(store).problems)
    assert re.search(words, found) if words else not found


def test_an_end_ahead_of_the_commit_is_no_problem(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves between a shard's rename and the root's, and a resume behind it."""
    with monkeypatch.context() as patch:
        forge(patch, (1, 0, FAILED))
        with open_ends(store) as writer:
            add_own(writer, 0, 1)
            writer.end_trajectories([1])
    assert verify_store(store).ok
    with TrajectoryWriter(store, resume=True) as writer:
        add_own(writer, 2, 3)
    assert verify_store(store).ok
    assert ends(store)[1].tolist() == [0, ENDED, 0, 0], "what is not committed is no end"
    dataset, npy = TrajectoryDataset(store), f"{store}.npy"
    counts, figures = dataset.trajectories.counts(), summarize(store).figures
    assert counts.get("failed", 0) == figures["num_failed"] == 0
    assert counts["ended"] == figures["num_ended"] == 1
    assert export_npy(store, npy, layout="compact", exclude_failed=True).left_out.failed == 0
    export_npy(store, npy, layout="grid", fields=["trajectory_end"])
    assert (read_npy(npy)["trajectory_end"] == dataset.read(TRAJECTORY_END)).all()
