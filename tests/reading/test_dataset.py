"""Reading a store: the committed prefix, only what is touched, and clear errors."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.store.shard import LABEL_NBYTES, ShardReader
from tests.helpers import (
    SMALL,
    add,
    assert_holds,
    assert_same,
    expected,
    ids,
    mask,
    open_writer,
    record,
    run_python,
)

N, T = 7, 10
WANT = expected(range(T), N)


@pytest.fixture
def chunked(store: str, small_chunks: int) -> TrajectoryDataset:
    """Ten steps of seven envs: shards of several chunks with padding, the last block partial."""
    with open_writer(store, N, block_steps=4) as writer:
        add(writer, *range(T), masks=True)
        writer.end_trajectories([2])
    dataset = TrajectoryDataset(store)
    grid = dataset.state.grid("observations")
    assert grid.block_steps < T
    assert T % grid.block_steps
    assert grid.chunks > 1
    assert grid.padded_envs > N
    assert small_chunks
    return dataset


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """(shard file, chunk) of every chunk decoded."""
    seen: list[tuple[str, int]] = []
    init, read = ShardReader.__init__, ShardReader.read

    def noting_init(self: Any, blobs: Any, state: Any, field: str, block: int) -> None:
        init(self, blobs, state, field, block)
        self.name = state.grid(field).shard_key(block)

    def noting_read(self: Any, chunk: int, out: Any) -> None:
        seen.append((self.name, chunk))
        read(self, chunk, out)

    monkeypatch.setattr(ShardReader, "__init__", noting_init)
    monkeypatch.setattr(ShardReader, "read", noting_read)
    return seen


def test_what_a_store_says_of_itself(store: str) -> None:
    dataset = record(store, 5, metadata={"task": "G1"}, num_envs=N, masks=True)
    assert (dataset.num_steps, dataset.num_envs) == (5, N)
    assert dataset.num_valid == sum(mask(s, N).sum() for s in range(5))
    assert dataset.num_ended == 0
    assert dataset.status == "complete"
    assert dataset.schema == SMALL
    assert dataset.metadata == {"task": "G1"}
    assert dataset.fields == (*SMALL.names, "valid_mask", "trajectory_id")
    assert "5 steps x 7 envs" in repr(dataset)
    assert dataset.path == store


def test_read_gives_the_asked_steps_of_a_field(chunked: TrajectoryDataset) -> None:
    for name, want in WANT.items():
        for start in range(T + 1):
            for stop in range(start, T + 1):
                assert_same(chunked.read(name, start, stop), want[start:stop], name)
    assert_same(chunked.read("actions"), WANT["actions"])
    assert_same(chunked.read("actions", 3), WANT["actions"][3:])


def test_read_gives_the_asked_envs(chunked: TrajectoryDataset) -> None:
    for envs in (slice(2, 5), slice(None, None, 3), slice(5, None), slice(-2, None), slice(3, 3)):
        assert_same(chunked.read("observations", 2, 9, envs=envs), WANT["observations"][2:9, envs])


def test_what_is_read_belongs_to_the_caller(chunked: TrajectoryDataset) -> None:
    for array in (chunked.read("actions", 0, 3), chunked["actions"][0:3]):
        assert array.flags.c_contiguous
        array[...] = -1
    assert_same(chunked.read("actions"), WANT["actions"])


def test_mask_and_ids_are_fields_like_others(chunked: TrajectoryDataset) -> None:
    assert_same(chunked.read("valid_mask"), np.stack([mask(s, N) for s in range(T)]))
    assert_same(ids(chunked), np.tile(np.arange(N), (T, 1)))
    assert chunked["valid_mask"].shape == (T, N)


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 2), (0, T + 1), (5, 4), (T + 1, T + 1), (T + 1, None)]
)
def test_steps_that_are_not_there(chunked: TrajectoryDataset, start: int, stop: int) -> None:
    with pytest.raises(InputError, match=r"steps .*expected within 0\.\.10"):
        chunked.read("actions", start, stop)


def test_fields_and_envs_that_are_not_there(chunked: TrajectoryDataset) -> None:
    for call in (lambda: chunked.read("reward"), lambda: chunked["reward"]):
        with pytest.raises(KeyError) as caught:
            call()
        assert isinstance(caught.value, InputError)
        assert str(caught.value).startswith("no field 'reward'; the fields are: observations")
    with pytest.raises(InputError, match="no field 5"):
        chunked.read(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="positive step"):
        chunked.read("actions", envs=slice(None, None, -1))
    for steps in ((0.5, None), ("0", None), (0, 2.0)):
        with pytest.raises(InputError, match=r"steps .*expected whole numbers"):
            chunked.read("actions", *steps)  # type: ignore[arg-type]
    for envs in (0, [0, 1]):
        with pytest.raises(InputError, match="envs"):
            chunked.read("actions", 0, 1, envs)  # type: ignore[arg-type]


class TestOnlyWhatIsTouched:
    """Blocks and chunks that an answer does not need are not decoded."""

    def test_opening_and_naming_a_field_decode_nothing(
        self, chunked: TrajectoryDataset, touched: list[Any]
    ) -> None:
        dataset = TrajectoryDataset(chunked.path)
        lazy = dataset["observations"]
        assert (lazy.shape, lazy.dtype, lazy.ndim) == ((T, N, 3), np.float32, 3)
        assert (lazy.size, lazy.nbytes, len(lazy)) == (T * N * 3, T * N * 12, T)
        assert "LazyArray (10, 7, 3) float32" in repr(lazy)
        assert touched == []

    def test_one_row_is_one_chunk(self, chunked: TrajectoryDataset, touched: list[Any]) -> None:
        grid = chunked.state.grid("observations")
        for step, env in [(0, 0), (3, 6), (9, 4)]:
            touched.clear()
            assert_same(chunked["observations"][step, env], WANT["observations"][step, env])
            name = f"observations/c.{step // grid.block_steps}.0.0"
            assert touched == [(name, env // grid.chunk_envs)]

    def test_a_range_of_steps_is_its_blocks(
        self, chunked: TrajectoryDataset, touched: list[Any]
    ) -> None:
        grid = chunked.state.grid("actions")
        size = grid.block_steps
        for start, stop in [(0, 1), (0, size), (size - 1, size + 1), (size, T), (0, T)]:
            touched.clear()
            chunked.read("actions", start, stop)
            blocks = {int(name.split(".")[1]) for name, _ in touched}
            assert blocks == set(range(start // size, (stop - 1) // size + 1))
            assert len(touched) == len(blocks) * grid.chunks

    def test_a_slice_of_envs_is_its_chunks(
        self, chunked: TrajectoryDataset, touched: list[Any]
    ) -> None:
        grid = chunked.state.grid("observations")
        chunked.read("observations", 0, 1, envs=slice(grid.chunk_envs, N))
        assert sorted(c for _, c in touched) == list(range(1, grid.chunks))

    def test_empty_answers_need_nothing(
        self, chunked: TrajectoryDataset, touched: list[Any]
    ) -> None:
        assert chunked.read("observations", 4, 4).shape == (0, N, 3)
        assert chunked["observations"][:, 3:3].shape == (T, 0, 3)
        assert touched == []


class TestSnapshot:
    """A dataset is what was committed when it was opened."""

    def test_only_the_committed_prefix_is_there(self, store: str) -> None:
        """And stands while its partial block is rewritten."""
        with open_writer(store, N) as writer:
            add(writer, *range(4))
            writer.commit()
            add(writer, 4)
            dataset = TrajectoryDataset(store)
            assert dataset.status == "collecting"
            lazy = dataset["actions"]
            with pytest.raises(InputError):
                dataset.read("actions", 0, 5)
            with pytest.raises(IndexError):
                lazy[4]
            for step in range(5, 9):
                writer.commit()
                assert_holds(dataset, range(4))
                assert_same(lazy, WANT["actions"][:4])
                add(writer, step)
            dataset.refresh()
            assert_holds(dataset, range(8))
            assert_same(lazy, WANT["actions"][:4])

    def test_zero_steps(self, store: str) -> None:
        dataset = record(store, 0, num_envs=N)
        assert dataset.read("observations").shape == (0, N, 3)
        assert dataset["observations"][...].shape == (0, N, 3)
        assert dataset["valid_mask"].shape == (0, N)
        assert dataset.num_valid == 0

    def test_what_lies_past_the_committed_steps_is_not_seen(self, store: str) -> None:
        record(store, 3, block_steps=3)
        Path(store, "actions", "c.1.0.0").write_bytes(b"debris")
        assert_holds(TrajectoryDataset(store), range(3))


class TestDamage:
    """Damage is an error that says where, and only for who reads there."""

    def test_a_missing_shard(self, store: str) -> None:
        dataset = record(store, T, num_envs=N)
        os.unlink(os.path.join(store, "actions", "c.1.0.0"))
        with pytest.raises(CorruptStoreError, match=r"actions, block 1.*missing"):
            dataset.read("actions")

    def test_the_damage_of_many_chunks_is_one_error(self, chunked: TrajectoryDataset) -> None:
        path = Path(chunked.path, "observations", "c.0.0.0")
        data = bytearray(path.read_bytes())
        chunks = chunked.state.grid("observations").chunks
        for at in range(LABEL_NBYTES, len(data) - (16 * chunks + 4), 10):
            data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptStoreError, match="checksum"):
            chunked.read("observations")


class TestProcesses:
    """Datasets travel to other processes and survive a fork."""

    def test_pickling_a_lazy_array(self, chunked: TrajectoryDataset) -> None:
        lazy = chunked["observations"]
        lazy[0]
        again = pickle.loads(pickle.dumps(lazy))
        assert (again.shape, again.dtype) == (lazy.shape, lazy.dtype)
        assert_same(again, WANT["observations"])

    def test_reading_in_a_forked_child(self, chunked: TrajectoryDataset) -> None:
        """As a data loader's workers do with a dataset that their parent has read from."""
        code = (
            "import os, signal, sys, warnings\n"
            "warnings.simplefilter('ignore', DeprecationWarning)  # fork beside threads\n"
            "from mosaic_collect import TrajectoryDataset\n"
            "dataset = TrajectoryDataset(sys.argv[1], threads=4)\n"
            "want = dataset.read('observations').tobytes()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    signal.alarm(200)\n"
            "    os._exit(0 if dataset.read('observations').tobytes() == want else 1)\n"
            "print(os.waitpid(child, 0)[1])\n"
        )
        result = run_python(code, chunked.path)
        assert result.stdout == "0\n", f"14 is the alarm: the child hung. {result}"

    def test_threads_read_side_by_side(self, chunked: TrajectoryDataset) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _: chunked.read("observations"), range(20)):
                assert_same(got, WANT["observations"])

    @pytest.mark.parametrize("threads", [1, 2, 8])
    def test_any_number_of_threads(self, chunked: TrajectoryDataset, threads: int) -> None:
        assert_holds(TrajectoryDataset(chunked.path, threads=threads), range(T))

    @pytest.mark.parametrize("threads", [0, "x", 2.0])
    def test_no_number_of_threads(self, chunked: TrajectoryDataset, threads: Any) -> None:
        with pytest.raises(InputError, match="threads: expected a whole number from 1"):
            TrajectoryDataset(chunked.path, threads=threads)


class TestNothingElseIsNeeded:
    """Reading and writing arrays load neither torch nor zarr; the package alone next to nothing."""

    HEAVY = "torch zarr xarray dask pandas matplotlib rsl_rl mjlab"
    READ = (
        "dataset = TrajectoryDataset(sys.argv[1]); dataset.read('actions'); dataset['actions'][1]"
    )
    WRITE = (
        "with open_writer(sys.argv[2]) as writer: add(writer, 0, 1, 2, 3)\n"
        "TrajectoryWriter(sys.argv[2], resume=True).close()"
    )

    @pytest.mark.parametrize(
        ("code", "unneeded"),
        [
            (f"from mosaic_collect import TrajectoryDataset; {READ}", HEAVY),
            (f"from tests.helpers import *\n{WRITE}", HEAVY),
            ("import mosaic_collect", "numpy torch numcodecs"),
        ],
        ids=["read", "write", "import"],
    )
    def test_what_is_loaded(self, store: str, code: str, unneeded: str) -> None:
        record(store, 4, num_envs=N)
        code = f"import sys\n{code}\nprint({set(unneeded.split())} & set(sys.modules))"
        result = run_python(code, store, f"{store}-2")
        assert result.stdout == "set()\n", result.stderr

    def test_what_is_missing_is_named(self, store: str) -> None:
        record(store, 1)
        code = (
            "import sys; sys.modules.update(zarr=None, xarray=None)\n"
            "from mosaic_collect import TrajectoryDataset\n"
            "from mosaic_collect.errors import MissingDependencyError\n"
            "dataset = TrajectoryDataset(sys.argv[1])\n"
            "for call in (dataset.to_zarr, dataset.to_xarray):\n"
            "    try: call()\n"
            "    except MissingDependencyError as error: print(error)\n"
        )
        lines = run_python(code, store).stdout.splitlines()
        assert "needs zarr: pip install 'mosaic-collect[analysis]'" in lines[0]
        assert "needs xarray: pip install" in lines[1]


def test_it_is_a_mapping(chunked: TrajectoryDataset) -> None:
    assert isinstance(chunked, Mapping)
    assert "actions" in chunked
    assert "steps" not in chunked
    assert list(chunked) == list(chunked.fields)
    assert len(chunked) == len(chunked.fields)
    assert chunked.get("steps") is None
    assert {name: array.shape for name, array in chunked.items()} == {
        name: chunked[name].shape for name in chunked.fields
    }
    assert chunked == chunked
    assert chunked != TrajectoryDataset(chunked.path)
    assert hash(chunked)
    assert chunked._ipython_key_completions_() == list(chunked)
    assert repr(chunked).endswith(f"; {', '.join(chunked)}>")


def test_a_copy_of_another_process_is_the_same_snapshot(store: str) -> None:
    with open_writer(store) as writer:
        add(writer, 0, 1)
        writer.commit()
        dataset = TrajectoryDataset(store)
        dataset.read("actions")
        sent = [pickle.dumps(dataset), pickle.dumps(dataset, 2)]
        add(writer, 2)
        writer.commit()
        for other in (*map(pickle.loads, sent), copy.copy(dataset), copy.deepcopy(dataset)):
            assert other.num_steps == 2
            assert other.state == dataset.state
            assert_same(other.read("actions"), dataset.read("actions"), "actions")
            other.refresh()
            assert other.num_steps == 3
