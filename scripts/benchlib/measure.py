"""Running a function in a child process of its own and measuring what it took."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

MB = 1_000_000


class Meter:
    """Wall seconds, CPU seconds and peak memory of this process and those it started meanwhile."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin, again; what the process holds already does not count as memory taken."""
        self._reset_peak()
        self._memory, self._children = status_nbytes("VmRSS"), 0
        self._cpu = _cpu_seconds()
        self._wall = time.perf_counter()

    def see_children(self) -> None:
        """Count the memory that child processes hold now, near the end of the work.

        What is shared counts once; a child's own peak would count it again.
        """
        self._children = sum(_own_nbytes(child.pid) for child in psutil.Process().children())

    def stop(self) -> dict[str, float]:
        """The figures; memory includes pages of files that are mapped. Children have ended."""
        wall = time.perf_counter() - self._wall
        cpu = _cpu_seconds() - self._cpu
        peak = status_nbytes("VmHWM") - self._memory + self._children
        return {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak / MB}

    def _reset_peak(self) -> None:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """The result of ``function`` in a forked child, which shares the pool and nothing else.

    Raises:
        RuntimeError: It failed there; the message has the child's traceback.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, args))
    child.start()
    theirs.close()
    try:
        good, result = ours.recv()
    except EOFError:
        good, result = False, "the child died"
    child.join()
    if not good:
        raise RuntimeError(result)
    return result


def _child(pipe: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, function(*args)))
    except BaseException:  # noqa: BLE001  the parent raises it
        pipe.send((False, traceback.format_exc()))


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def tree_nbytes(path: str) -> int:
    """Bytes of all files under ``path``; a file of two names counts once, as it is stored once."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    paths = (os.path.join(folder, n) for folder, _, names in os.walk(path) for n in names)
    return sum({(s.st_dev, s.st_ino): s.st_size for s in map(os.stat, paths)}.values())


def sync_tree(path: str) -> None:
    """Make a file, or a folder with all that is in it, survive a power cut."""
    inside = [os.path.join(f, name) for f, _, names in os.walk(path) for name in (*names, "")]
    for each in inside or [path]:
        fd = os.open(each, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch's own threads would take the cores that are measured."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _own_nbytes(pid: int) -> int:
    """Memory of a process without what it shares by name; files' pages count in proportion."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(line.split(":") for line in file if ":" in line and "kB" in line)
    return sum(int(fields[k].split()[0]) * 1024 for k in ("Pss_Anon", "Pss_File"))


def status_nbytes(key: str) -> int:
    """A figure of this process that the kernel keeps, ``VmRSS`` say, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
