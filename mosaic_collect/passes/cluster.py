"""Passes on a cluster of Dask's: https://distributed.dask.org.

Workers need this very copy of the package, which is checked before anything is unpickled there. A
function is sent once per worker, and pieces go out in batches.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from pickle import PicklingError
from typing import Any

import mosaic_collect
from mosaic_collect.checks import needed, whole
from mosaic_collect.errors import ClusterError, InputError, MosaicCollectError
from mosaic_collect.passes.engine import Engine, In, Out
from mosaic_collect.store.workers import in_order

_log = logging.getLogger(__name__)
#: Batches for each thread of the cluster: so many that a slow one, or one that died, costs little,
#: and so few that handing them over costs little, too.
_BATCHES, _MOST_PIECES = 16, 64
_AHEAD = 3  # batches a thread
# Of workers started here: Dask's own setting has malloc give each chunk's memory back to the
# system, to be mapped and touched for the first time again (glibc, mallopt(3)).
_NANNY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 << 20,
}
_START_SECONDS, _LOOK_SECONDS = 30.0, 10.0


@contextlib.contextmanager
def _interrupts_are_ours() -> Iterator[None]:
    """Within, processes are started that a terminal's Ctrl-C does not reach.

    They inherit the mask of signals, and so do threads that start others later. This process is
    interrupted at the end, if it was meanwhile, and ends them.
    """
    resource_tracker.ensure_running()  # which would unblock signals in the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class DaskEngine(Engine):
    """A cluster's workers; a context manager.

    Workers need this very copy of the package, and see stores and exports under the same names. One
    that dies costs the time of what it was at, which another one does again; what is found does not
    depend on the workers.

    Args:
        scheduler: Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``.
        workers: Or so many processes here, for as long as this lives. A script that asks for them
            needs ``if __name__ == "__main__":``, as all that start processes do.

    Raises:
        InputError: Not one of both.
        MissingDependencyError: Dask's ``distributed`` is not installed.
        ClusterError: No such scheduler, no worker, or one that has another copy of this package.
    """

    def __init__(self, scheduler: str | None = None, workers: int | None = None) -> None:
        if (scheduler is None) == (workers is None):
            raise InputError("scheduler, workers: expected one of both")
        count = None if workers is None else whole(workers, "workers", 1)
        self._dask = _distributed()
        with contextlib.ExitStack() as opened:
            try:
                where = opened.enter_context(self._processes(count)) if count else scheduler
                client = self._dask.Client(where, timeout=_START_SECONDS, set_as_default=False)
            except (OSError, RuntimeError, ValueError, self._dask.TimeoutError) as error:
                here = f"workers: cannot start {count} processes"
                what = here if count else f"scheduler: cannot reach {scheduler}"
                raise ClusterError(f"{what}: {error}") from error
            self._client = opened.enter_context(client)
            self._check_workers()
            self._opened = opened.pop_all()

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cluster; processes started for this engine end."""
        self._opened.close()

    def map(
        self,
        function: Callable[[In], Out],
        pieces: Iterable[In],
        require: Callable[[], None] | None = None,
    ) -> Iterator[Out]:
        threads = max(1, sum(self._client.nthreads().values()))
        try:
            pickled = self._dask.protocol.pickle.dumps((function, require))
        except (TypeError, AttributeError, PicklingError) as error:
            raise ClusterError(f"the work cannot be sent to other processes: {error}") from error
        with warnings.catch_warnings():
            # What says of many pairs which are chosen is large, and is sent once a worker.
            warnings.filterwarnings("ignore", "Sending large graph")
            # A task, and not scattered data, which would be gone with the worker that holds it.
            task = self._client.submit(
                tuple, (package_identity(), secrets.token_hex(8), pickled), pure=False
            )

        def submit(batch: Sequence[In]) -> Any:
            return self._client.submit(work, task, batch, pure=False)

        batches = _batches(pieces, threads)
        for found in in_order(submit, batches, _AHEAD * threads, self._result):
            yield from found

    def _result(self, future: Any) -> Any:
        """Results of a batch, however long it takes and whatever dies over it."""
        try:
            while True:
                try:
                    return future.result(timeout=_LOOK_SECONDS)
                except self._dask.TimeoutError:
                    if future.status == "error":  # its own; raised here as it is, whichever it is
                        return future.result()
                if not self._client.nthreads():
                    _log.warning("the cluster has no worker left: waiting for one")
        except self._dask.KilledWorker as error:
            raise ClusterError(
                f"several workers died one after the other at the same pieces, for want of memory "
                f"perhaps: {error}"
            ) from error
        except CancelledError as error:
            raise ClusterError(f"the scheduler is gone: {error}") from error

    def _processes(self, count: int) -> Any:
        from dask import config

        with config.set(_NANNY), _interrupts_are_ours():
            return self._dask.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # and not a known port of all networks
                silence_logs=False,  # it would silence whoever else writes to the same log
            )

    def _check_workers(self) -> None:
        """That there are some, and that they are of this copy of the package."""
        try:
            self._client.wait_for_workers(1, timeout=_START_SECONDS)
        except self._dask.TimeoutError as error:
            raise ClusterError(f"scheduler: no worker came in {_START_SECONDS:.0f} s") from error
        mine = package_identity()
        told = self._client.run(package_identity, on_error="return")
        others = [f"{worker} has {found}" for worker, found in told.items() if found != mine]
        if others:
            raise ClusterError(
                f"scheduler: expected workers with mosaic_collect {mine}, as here; "
                f"{'; '.join(others[:3])}{f'; {len(others) - 3} more' if len(others) > 3 else ''}"
            )


#: The last pass of each thread of a worker, and its function: policies keep state between calls.
_own = threading.local()


def work(task: tuple[str, str, bytes], pieces: Sequence[Any]) -> list[Any]:
    """Do some pieces of a pass, in a worker.

    Args:
        task: Identity of the package that sends it, token of the pass, and pickled the function of
            a piece with the check ``require`` of ``Engine.map``.
        pieces: The pieces.

    Raises:
        ClusterError: This process has another copy of the package, or sees other files.
    """
    if getattr(_own, "task", None) != task:
        _own.task, _own.function = None, _admitted(*task)
        _own.task = task
    return [_own.function(piece) for piece in pieces]


def _admitted(identity: str, _token: str, pickled: bytes) -> Any:
    """The function of a pass, once this process is known to have the same package and files."""
    here, mine = f"worker {socket.gethostname()}, process {os.getpid()}", package_identity()
    if mine != identity:  # before anything of it is unpickled
        raise ClusterError(f"{here}: expected mosaic_collect {identity}, got {mine}")
    function, require = pickle.loads(pickled)  # noqa: S301  from this package's other half
    try:
        if require is not None:
            require()
    except (MosaicCollectError, OSError) as error:
        raise ClusterError(
            f"{here} does not see the files that are to be worked on: they must lie on "
            f"storage that all workers share, under one name: {error}"
        ) from error
    return function


def _batches(pieces: Iterable[In], threads: int) -> Iterator[Sequence[In]]:
    if not isinstance(pieces, Sequence):
        yield from ([piece] for piece in pieces)
        return
    size = min(_MOST_PIECES, max(1, len(pieces) // (_BATCHES * threads)))
    for at in range(0, len(pieces), size):
        yield pieces[at : at + size]


def _distributed() -> Any:
    # Unless it is set or imported already: its log, also of processes started here, says at length
    # what starts, closes and dies; what matters of that comes as an error of ours.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    with needed("a cluster needs Dask's distributed: pip install 'mosaic-collect[cluster]'"):
        import distributed
    return distributed


@cache
def package_identity() -> str:
    """Its version, and a hash of its sources: copies of one version may differ."""
    folder = Path(mosaic_collect.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return f"{mosaic_collect.__version__} ({digest.hexdigest()[:12]})"
