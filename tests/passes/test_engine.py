"""Engines: results in order whoever is ready first, errors as they are, nobody who cannot do it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mosaic_collect import DaskEngine, TrajectoryDataset, errors, verify_store
from mosaic_collect.errors import (
    ClusterError,
    CorruptStoreError,
    InputError,
    MissingDependencyError,
)
from mosaic_collect.passes import cluster
from mosaic_collect.passes.cluster import package_identity
from mosaic_collect.passes.engine import Engine
from tests import helpers

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.fixture(params=["threads", "cluster"])
def either(request: pytest.FixtureRequest) -> Engine:
    return Engine(3) if request.param == "threads" else request.getfixturevalue("engine")


def _late(piece: int) -> tuple[int, int]:
    time.sleep(0.02 if piece % 3 == 0 else 0)
    return piece, os.getpid()


def test_results_come_in_order(either: Engine) -> None:
    found = list(either.map(_late, range(200)))
    assert [piece for piece, _ in found] == list(range(200))
    processes = {os.getpid()}
    if isinstance(either, DaskEngine):
        processes = set(either._client.run(os.getpid).values()) - processes
    assert {pid for _, pid in found} <= processes
    for few in ([], [5]):
        assert [piece for piece, _ in either.map(_late, few)] == few


def test_threads_go_only_a_little_ahead() -> None:
    begun: list[int] = []
    results = Engine(2).map(begun.append, range(100))
    next(results)
    assert len(begun) <= 6
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 6
    assert not [t for t in threading.enumerate() if t.name.startswith("mosaic-pass")]


def _poison(kind: type[Exception], piece: int) -> int:
    if piece == 30:
        raise kind(f"piece {piece} is bad")
    return piece


@pytest.mark.parametrize("kind", [CorruptStoreError, OSError, TimeoutError, ZeroDivisionError])
def test_an_error_travels_as_it_is(either: Engine, kind: type[Exception]) -> None:
    found: list[int] = []
    with pytest.raises(kind, match=r"^piece 30 is bad$") as caught:
        found.extend(either.map(partial(_poison, kind), range(100)))
    assert type(caught.value) is kind
    assert len(list(either.map(_late, range(5)))) == 5, "the engine is as good as before"


def test_pieces_that_are_done_just_as_a_wait_ends(
    engine: DaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that runs out of time is not a failure of the piece, even if that is done by then."""
    import distributed

    waited, result = set(), distributed.Future.result

    def late(future: distributed.Future, timeout: float | None = None) -> object:
        if future.key in waited:
            return result(future, timeout)
        waited.add(future.key)
        future.exception()  # waits until it is done
        raise distributed.TimeoutError

    monkeypatch.setattr(distributed.Future, "result", late)
    assert [piece for piece, _ in engine.map(_late, range(9))] == list(range(9))
    with pytest.raises(TimeoutError, match=r"^piece 30 is bad$"):
        list(engine.map(partial(_poison, TimeoutError), range(40)))
    assert len(waited) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_can_travel(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("words")))
    assert (type(error), str(error)) == (kind, "words")


def _deadly(parent: int, piece: int) -> int:
    if piece == 3:
        assert os.getpid() != parent
        os._exit(1)
    return piece


def test_a_piece_that_kills_everyone(mortal: DaskEngine) -> None:
    with pytest.raises(ClusterError, match="several workers died one after the other"):
        list(mortal.map(partial(_deadly, os.getpid()), range(6)))
    assert len(list(mortal.map(_late, range(5)))) == 5, "they were started again"


def test_a_worker_that_sees_another_store_and_not_only_one_that_grew(
    engine: DaskEngine, store: str
) -> None:
    with helpers.open_writer(store) as writer:
        helpers.add(writer, 0, 1)
        writer.commit()
        view = TrajectoryDataset(store).view
        helpers.add(writer, 2)
    assert len(list(engine.map(_late, range(4), view.require_seen))) == 4
    shutil.rmtree(store)
    with pytest.raises(ClusterError, match=r"(?s)worker .* does not see the files .*expert\.zarr"):
        list(engine.map(_late, range(4), view.require_seen))
    helpers.record(store, 5)
    with pytest.raises(ClusterError, match="another store, or an older state of it, lies there"):
        list(engine.map(_late, range(4), view.require_seen))


def test_one_or_the_other() -> None:
    for given in ({}, {"scheduler": "tcp://127.0.0.1:1", "workers": 2}):
        with pytest.raises(InputError, match="scheduler, workers: expected one of both"):
            DaskEngine(**given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="workers: expected a whole number from 1, got 0"):
        DaskEngine(workers=0)


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mosaic-collect\[cluster\]'"):
        DaskEngine(workers=1)


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"scheduler: cannot reach tcp://127\.0\.0\.1:1: "):
        DaskEngine("tcp://127.0.0.1:1")
    with pytest.raises(ClusterError, match="scheduler: cannot reach nonsense://x"):
        DaskEngine("nonsense://x")


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of one that has no worker."""
    import distributed

    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as alone:
        yield alone.scheduler_address


def test_no_worker_there(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START_SECONDS", 0.5)
    with pytest.raises(ClusterError, match="no worker came in 0 s"):
        DaskEngine(scheduler)


Start = Callable[[str], object]


@pytest.fixture
def start_worker(scheduler: str, tmp_path: Path) -> Iterator[Start]:
    """Start a worker that finds the package in a folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: str) -> None:
        options = ["--nthreads=1", "--no-nanny", "--no-dashboard", f"--local-directory={tmp_path}"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, *options]
        env = {**os.environ, "PYTHONPATH": folder}
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(command, env=env, cwd=folder, stdout=quiet, stderr=quiet))

    yield start
    for process in started:
        process.terminate()
        process.wait()


def test_a_worker_of_another_copy(scheduler: str, start_worker: Start, tmp_path: Path) -> None:
    package = Path(cluster.__file__).parents[1]
    copy = shutil.copytree(package, tmp_path / "mosaic_collect")
    with open(copy / "checks.py", "a") as file:
        file.write("# another\n")
    start_worker(str(tmp_path))
    with pytest.raises(ClusterError, match="scheduler: expected workers with mosaic_collect") as e:
        DaskEngine(scheduler)
    assert package_identity() in str(e.value)
    assert "has 0.1.0 (" in str(e.value)


def test_a_worker_without_the_package(scheduler: str, start_worker: Start, tmp_path: Path) -> None:
    (tmp_path / "mosaic_collect.py").write_text("# something else of that name\n")
    start_worker(str(tmp_path))
    with pytest.raises(ClusterError, match="is not a package"):
        DaskEngine(scheduler)


def test_a_worker_that_comes_later_is_asked_too() -> None:
    with pytest.raises(ClusterError, match=r"worker .*: expected mosaic_collect 0\.0\.1 \(abc\)"):
        cluster.work(("0.0.1 (abc)", "pass", b"not even a pickle"), [1])


def test_a_cluster_of_others(scheduler: str, start_worker: Start, store: str) -> None:
    """A scheduler and a worker that this process did not start."""
    helpers.record(store, 10)
    start_worker(helpers.REPO)
    with DaskEngine(scheduler) as engine:
        report = verify_store(store, engine=engine)
    assert report.ok
    assert report.checked == 24
