"""A loader among other things: stores that grow, workers, devices, moments, memory."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
import time
from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from torch.utils.data import DataLoader  # noqa: E402

from mosaic_collect import BatchLoader, TrajectoryDataset, TrajectoryWriter  # noqa: E402
from mosaic_collect.errors import ClosedError, InputError, StoreNotFoundError  # noqa: E402
from mosaic_collect.sampling.pool import Memory  # noqa: E402
from mosaic_collect.sampling.tiles import Tiles  # noqa: E402
from mosaic_collect.store.schema import Field, Schema  # noqa: E402
from tests import helpers  # noqa: E402
from tests.sampling.common import NUMBERED, add, every_third, numbered, numbers, tile_mb  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.mark.parametrize("name", ["joint_pos", "observations"])
def test_without_fields_it_draws_mosaics_or_all(store: str, name: str) -> None:
    """Without observations a store is not MOSAIC's, though it has actions."""
    schema = Schema((Field(name, 3), Field("actions", 2), Field("reward")))
    with TrajectoryWriter(store, schema, num_envs=2) as writer:
        writer.add_step(**{name: np.zeros((2, 3))}, actions=np.zeros((2, 2)), reward=np.zeros(2))
    batch = next(iter(BatchLoader(store, 2)))
    assert [*batch] == ([name, "actions"] + ["reward"] * (name == "joint_pos"))


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_a_store_that_is_still_recorded(store: str, mode: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 10)
        writer.commit()
        loader = BatchLoader(store, 7, mode=mode, reuse=1)
        assert loader.num_pairs == 70
        add(writer, 10, 5)
        writer.commit()
        iterator = iter(loader)
        first = numbers(islice(iterator, 5))
        loader.refresh()
        rest = numbers(iterator if mode == "epochs" else islice(iterator, 200))
    if mode == "epochs":  # this epoch is of what it began with
        assert np.array_equal(np.sort(np.concatenate([first, rest])), np.arange(70))
        assert np.array_equal(np.sort(numbers(loader)), np.arange(105))
    else:
        assert set(rest.tolist()) == set(range(105))
    assert loader.num_pairs == 105


def test_ranks_that_look_at_different_times_see_the_same_steps(store: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 10)
        writer.commit()
        first = BatchLoader(store, 6, rank=0, world_size=2)
        add(writer, 10, 5)
        writer.commit()
        second = BatchLoader(store, 6, rank=1, world_size=2)
        assert (first.committed, second.committed) == ([10], [15])
        assert len(first) != len(second)
        second.refresh(first.committed)
        assert len(first) == len(second)
        assert second.committed == [10]
        both = np.concatenate([numbers(first), numbers(second)])
        assert np.array_equal(np.sort(both), np.arange(70))
        # Asked for in the middle, seen from the next epoch on.
        iterator = iter(first)
        next(iterator)
        first.refresh([13])
        numbers(iterator)
        second.refresh(first.committed)
        assert (first.committed, second.committed) == ([10], [10])
        next(iter(first))
        assert first.committed == [13]
        second.refresh()
        assert second.committed == [15]
    for wrong in ([16], [10, 10]):
        with pytest.raises(InputError, match=r"committed: is of stores of \[.*these have \[15\]"):
            second.refresh(wrong)
    assert len(numbers(second)) == 53


def test_a_state_goes_on_in_a_store_that_has_grown(store: str) -> None:
    with helpers.open_writer(store, 7, NUMBERED, 4) as writer:
        add(writer, 0, 10)
        writer.commit()
        options = {"shuffle_buffer_mb": 5 * tile_mb(store)}
        whole = numbers(BatchLoader(store, 6, **options))
        loader = BatchLoader(store, 6, **options)
        first = numbers(islice(loader, 4))
        state = loader.state_dict()
        add(writer, 10, 5)
        writer.commit()
    grown = BatchLoader(store, 6, **options)
    grown.load_state_dict(state)
    assert np.array_equal(np.concatenate([first, numbers(grown)]), whole)
    assert len(numbers(grown)) == 70, "until it is told to look again"
    grown.refresh()
    assert len(numbers(grown)) == 105


def test_a_rank_that_begins_late_is_source_at_a_refresh(tmp_path: Any) -> None:
    folder, told = str(tmp_path / "ranks"), r"is of stores of \[4\] steps, these have \[10, 4"
    first, second = (
        helpers.open_writer(folder, 7, NUMBERED, 4, rank=r, world_size=2) for r in (0, 1)
    )
    for what in (folder, TrajectoryDataset(folder)):
        with pytest.raises(StoreNotFoundError, match="no rank has a step yet"):
            BatchLoader(what, 6)
    add(second, 10, 4)
    second.commit()
    dataset = TrajectoryDataset(folder)
    loaders = [BatchLoader(what, 6) for what in (folder, dataset)]
    assert [s.num_pairs for s in loaders] == [28, 28]
    add(first, 0, 10)
    first.commit()
    for loader in loaders:
        with pytest.raises(InputError, match=told):
            loader.refresh([4])
        assert (loader.committed, loader.num_pairs) == ([4], 28), "as it was"
        loader.refresh()
        assert (loader.committed, loader.num_pairs) == ([10, 4], 98)
        assert np.array_equal(np.sort(numbers(loader)), np.arange(98))
    assert dataset.num_steps == 4, "a dataset that is given keeps its own snapshot"
    first.close()
    second.close()


def test_a_working_directory_that_changes_makes_no_difference(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(store, 4, 7, 4)
    monkeypatch.chdir(os.path.dirname(store))
    loader = BatchLoader(os.path.basename(store), 6)
    monkeypatch.chdir("/")
    loader.refresh()
    assert len(numbers(loader)) == 28


def test_what_is_no_store_and_what_holds_no_step(store: str) -> None:
    with pytest.raises(StoreNotFoundError):
        BatchLoader(store, 6)
    helpers.open_writer(store, 7, NUMBERED, 4).close(complete=False)
    with pytest.raises(InputError, match="no committed step"):
        BatchLoader(store, 6)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than processors
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("tiles", [9, 1000])
def test_workers_of_a_data_loader_share_an_epoch(store: str, workers: int, tiles: int) -> None:
    numbered(store, 23, 7, 4)
    loader = BatchLoader(store, 6, shuffle_buffer_mb=tiles * tile_mb(store))
    numbers(loader)  # what this process holds is of no use to a child
    data_loader = DataLoader(loader, batch_size=None, num_workers=workers)
    assert len(data_loader) == len(loader) == 27
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(data_loader)
        assert len(batches) == 27
        epochs.append(numbers(batches))
        assert np.array_equal(np.sort(epochs[-1]), np.arange(161))
    assert not np.array_equal(*epochs)


def test_a_child_that_is_forked_in_the_middle_decodes_for_itself(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tiles are being decoded just then, by threads that the child does not have."""
    numbered(store, 23, 7, 4)
    loader = BatchLoader(store, 6, shuffle_buffer_mb=9 * tile_mb(store))
    parent, done, load = os.getpid(), threading.Event(), Tiles.load
    needed = [None] * loader._source.tiles.active

    def slow(*given: Any) -> Any:
        if os.getpid() == parent and not needed:
            done.wait(600)
        needed[-1:] = []
        return load(*given)

    monkeypatch.setattr(Tiles, "load", slow)
    iterator = iter(loader)
    next(iterator)
    try:
        data_loader = DataLoader(loader, batch_size=None, num_workers=2, timeout=300)
        assert np.array_equal(np.sort(numbers(data_loader)), np.arange(161))
        (told,) = DataLoader(Forked(iterator), batch_size=None, num_workers=1, timeout=300)
        assert "the parent process's" in told
    finally:
        done.set()
    assert len(list(iterator)) == 26


class Forked(torch.utils.data.IterableDataset):
    """Goes on with an iterator in a worker; gives what is said of that."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> Any:
        try:
            next(self.iterator)
        except ClosedError as error:
            yield str(error)


def test_workers_draw_different_streams(store: str) -> None:
    numbered(store, 23, 7, 4)
    data_loader = DataLoader(BatchLoader(store, 6, mode="stream"), batch_size=None, num_workers=2)
    batches = [b["number"].tolist() for b in islice(data_loader, 8)]
    assert batches[::2] != batches[1::2]


def test_an_epoch_is_another_stream(store: str) -> None:
    """So that workers that begin anew do not give the same batches again."""
    numbered(store, 23, 7, 4)
    for tiles in (5, 1000):
        loader = BatchLoader(store, 6, mode="stream", shuffle_buffer_mb=tiles * tile_mb(store))
        data_loader, drawn = DataLoader(loader, batch_size=None, num_workers=1), []
        for epoch in (0, 1, 0):
            loader.set_epoch(epoch)
            drawn.append(numbers(islice(data_loader, 8)).tolist())
        assert drawn[0] == drawn[2] != drawn[1]


def test_a_state_is_of_one_worker(store: str) -> None:
    numbered(store, 23, 7, 4)
    for mode in ("epochs", "stream"):
        loader = BatchLoader(store, 6, mode=mode)
        next(iter(loader))
        resumed = BatchLoader(store, 6, mode=mode)
        resumed.load_state_dict(loader.state_dict())
        with pytest.raises(InputError, match="worker 0 of 1, this is worker 0 of 2"):
            next(iter(DataLoader(resumed, batch_size=None, num_workers=2)))


def test_it_pickles_in_the_middle(store: str) -> None:
    numbered(store, 12, 7, 4)
    loader = BatchLoader(store, 6)
    iterator = iter(loader)
    next(iterator)
    copied = pickle.loads(pickle.dumps(loader))
    assert copied.num_pairs == loader.num_pairs
    assert np.array_equal(np.sort(numbers(copied)), np.arange(84))


def test_moments_are_those_of_the_pairs(store: str) -> None:
    valid = numbered(store, 23, 7, 4, every_third)
    loader = BatchLoader(store, 6)
    mean, std = loader.moments()["wide"]
    assert mean.shape == std.shape == (6,)
    assert mean.dtype == torch.float32
    np.testing.assert_allclose(mean, np.full(6, valid.mean()), rtol=1e-6)
    np.testing.assert_allclose(std, np.full(6, valid.std()), rtol=1e-6)
    assert loader.moments("number")["number"][0] == pytest.approx(valid.mean())
    with pytest.raises(InputError, match="expected one of number, wide"):
        loader.moments("narrow")


def test_moments_of_rows_of_several_axes(store: str) -> None:
    dataset = helpers.record(store, 9, schema=helpers.CAMERA, block_steps=4, num_envs=5)
    found = BatchLoader(store, 7).moments("rgb", "depth", "reward")
    for name, (mean, std) in found.items():
        rows = dataset.read(name).reshape(45, *dataset.schema[name].row_shape).astype(float)
        np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(std, rows.std(axis=0), rtol=1e-5)


def test_moments_take_no_more_memory_for_large_rows_or_a_large_pool(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # chunks of their usual size
    monkeypatch.setattr("os.fsync", lambda fd: None)
    schema = Schema((Field(name="rgb", dim=(128, 128, 3), dtype="uint8"), Field(name="reward")))
    rows = {"rgb": np.zeros((8, 128, 128, 3), np.uint8), "reward": np.zeros(8, np.float32)}
    with helpers.open_writer(store, 8, schema, 32) as writer:
        for _ in range(64):
            writer.add_step(**rows)
    loader = BatchLoader(store, 8, shuffle_buffer_mb=2000, threads=2)
    with helpers.memory_within(60e6):
        loader.moments("rgb")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_on_a_device(store: str, mode: str) -> None:
    numbered(store, 23, 7, 4)
    for tiles in (5, 1000):
        options = {"mode": mode, "shuffle_buffer_mb": tiles * tile_mb(store), "reuse": 1}
        want = numbers(islice(BatchLoader(store, 6, **options), 27))
        loader = BatchLoader(store, 6, device="cuda:0", **options)
        batches = list(islice(loader, 27))
        assert {t.device.type for b in batches for t in b.values()} == {"cuda"}
        assert np.array_equal(numbers(batches), want)
    pinned = BatchLoader(store, 6, mode=mode, pin_memory=True)
    assert next(iter(pinned))["wide"].is_pinned()


def test_threads_end_with_the_loader(store: str) -> None:
    numbered(store, 23, 7, 4)
    before = set(threading.enumerate())
    loader = BatchLoader(store, 6, shuffle_buffer_mb=5 * tile_mb(store))
    iterator = iter(loader)
    next(iterator)
    assert set(threading.enumerate()) - before
    loader.close()
    assert set(threading.enumerate()) <= before
    del iterator
    next(iter(loader))
    del loader
    gc.collect()
    helpers.wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_an_iteration_that_is_collected_in_a_thread_that_decodes_for_it(
    store: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector runs in any thread, and must wait for none that waits for it."""
    numbered(store, 92, 7, 4)
    loader = BatchLoader(store, 6, mode=mode, shuffle_buffer_mb=9 * tile_mb(store), threads=1)
    load, dropped, collected = Tiles.load, threading.Event(), []
    needed = [None] * loader._source.tiles.active

    def collecting(*given: Any) -> Any:
        if not needed:  # by the first batch
            dropped.wait(300)
            collected.append(gc.collect())
        needed[-1:] = []
        return load(*given)

    monkeypatch.setattr(Tiles, "load", collecting)
    gc.collect()
    gc.disable()
    try:
        cycle: list[Any] = [iter(loader)]
        cycle.append(cycle)
        next(cycle[0])
        del cycle  # only the collector finds it
        dropped.set()
        helpers.wait_until(lambda: collected)
    finally:
        gc.enable()
    other = threading.Thread(target=lambda: found.append(next(iter(loader))), daemon=True)
    found: list[Any] = []
    other.start()
    other.join(300)
    assert found, "it waits for itself"


def test_a_script_that_stops_in_the_middle_ends(store: str) -> None:
    numbered(store, 23, 7, 4)
    code = (
        "import sys\nfrom mosaic_collect import BatchLoader\n"
        "stream = iter(BatchLoader(sys.argv[1], 6, mode='stream'))\nnext(stream)\nprint('done')"
    )
    done = helpers.run_python(code, store)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


_FREED = """
import threading, time
from mosaic_collect.sampling.prefetch import Prefetcher
freeing = threading.Event()
class Batch:
    def __del__(self):
        freeing.set()
        time.sleep(0.3)
        print("freed")
def batches():
    yield Batch()
    yield
prefetcher = Prefetcher(batches(), 1)
prefetcher.start()
while prefetcher._items.empty():
    time.sleep(0.001)
prefetcher.stop()
del prefetcher
freeing.wait()
"""


def test_the_interpreter_ends_once_batches_nobody_wants_are_freed() -> None:
    """A thread that frees a tensor behind the interpreter would abort the process."""
    done = helpers.run_python(_FREED)
    assert (done.returncode, done.stdout) == (0, "freed\n"), done.stderr


_MEMORY = """
import sys, torch
from itertools import islice
from mosaic_collect import BatchLoader
def now():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
options = {"shuffle_buffer_mb": float(sys.argv[2]), "mode": sys.argv[3], "reuse": 1, "threads": 2}
loader = BatchLoader(sys.argv[1], 1024, **options)
before = now()
most = 0
for batch in islice(loader, int(sys.argv[4])):
    most = max(most, now())
print(most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_memory_is_the_pool_and_at_most_100_mb(
    store: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # chunks of their usual size
    monkeypatch.setattr("os.fsync", lambda fd: None)
    schema = helpers.Schema.mosaic(obs_dim=154, action_dim=29, student_obs_dim=770)
    steps = 320
    with helpers.open_writer(store, 256, schema, 64) as writer:
        row = {n: np.zeros((256, schema[n].dim), np.float32) for n in schema.names}
        for _ in range(steps):
            writer.add_step(**row)
    raw_mb = steps * 256 * 4044 / 1e6
    for shuffle_buffer_mb in (64, 160):
        assert raw_mb > 2 * shuffle_buffer_mb
        done = helpers.run_python(_MEMORY, store, str(shuffle_buffer_mb), mode, str(steps // 4))
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < shuffle_buffer_mb + 100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_what_is_known_of_pairs_counts_where_they_are_narrow(
    store: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # chunks of their usual size
    monkeypatch.setattr("os.fsync", lambda fd: None)
    row = np.zeros(8192, np.float32)
    with helpers.open_writer(store, 8192, Schema((Field(name="reward"),)), 256) as writer:
        for _ in range(1536):
            writer.add_step(reward=row)
    done = helpers.run_python(_MEMORY, store, "200", mode, "100")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200 + 100


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_a_batch_that_is_copied_late_holds_its_own_pairs(
    store: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(store, 48, 7, 4)
    loader = BatchLoader(store, 5, mode=mode, reuse=1, shuffle_buffer_mb=3 * tile_mb(store))
    expected = numbers(islice(loader, 60))
    rows_of = Memory.rows_of

    def late(self: Memory, codes: Any) -> Any:
        time.sleep(0.003)  # the tiles behind have long been decoded
        return rows_of(self, codes)

    monkeypatch.setattr(Memory, "rows_of", late)
    loader.set_epoch(0)
    assert (numbers(islice(loader, 60)) == expected).all()
