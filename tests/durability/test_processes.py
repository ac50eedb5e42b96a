"""Promises 5 and 7 with real processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import StoreLockedError
from tests.durability.rig import check, check_resume, open_tiny
from tests.helpers import REPO

# A child ignores what its parent ignores: nohup, a scheduler or a shell's background job.
HEADER = """
import os, signal, sys, time, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_DFL)
from tests.durability.rig import add_tiny, open_tiny
from tests.durability.recording import WrappedFiles, writing_through
from mosaic_collect.recording.signals import termination_as_exit
path = sys.argv[1]

def ready():
    print("ready", flush=True)

def spin(writer, steps=7):
    add_tiny(writer, steps)
    ready()
    # Short sleeps: a signal that comes just before a long one would be seen after it.
    for _ in range(600):
        time.sleep(0.1)

class Stuck(WrappedFiles):
    '''A disk that never answers, from the next sync on.'''
    stuck = False
    def do(self, kind, call, path, *details):
        if self.stuck and kind == "sync":
            time.sleep(600)
        return call()
"""


@contextmanager
def child(store: str, code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that runs the code and has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HEADER + code, store],
        env={**os.environ, "PYTHONPATH": REPO},
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def end(process: subprocess.Popen[str], number: int | None = None) -> str:
    """Send the signal and wait; the rest of the child's standard error.

    No disk or service that hangs in a test answers within that time.
    """
    if number is not None:
        process.send_signal(number)
    return process.communicate(timeout=200)[1]


IN_WITH = "with termination_as_exit(), open_tiny(path) as writer: spin(writer)"


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGUSR1, 128 + signal.SIGUSR1),
        (signal.SIGUSR2, 128 + signal.SIGUSR2),
    ],
)
def test_a_signal_commits_what_was_added(store: str, number: int, status: int) -> None:
    with child(store, IN_WITH) as process:
        end(process, number)
    assert process.returncode == status
    assert check(store) == 7
    assert TrajectoryDataset(store).status == "collecting"
    check_resume(store, 7)


def test_without_the_helper_sigterm_is_a_kill(store: str) -> None:
    with child(store, "with open_tiny(path) as writer: spin(writer)") as process:
        end(process, signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    steps = check(store)
    assert 0 <= steps <= 7
    check_resume(store, steps)


def test_a_signal_that_the_program_handles_stays_its_own(store: str) -> None:
    """Other tools of the job take the scheduler's warning, too; asked for by name, it is ours."""
    code = "import signal; signal.signal(signal.SIGUSR1, lambda *a: None)\n"
    with child(store, code + IN_WITH) as process:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        assert process.poll() is None
        end(process, signal.SIGUSR2)
    assert process.returncode == 128 + signal.SIGUSR2
    named = IN_WITH.replace("as_exit()", "as_exit([signal.SIGUSR1])")
    with child(store + ".2", code + named) as process:
        end(process, signal.SIGUSR1)
    assert process.returncode == 128 + signal.SIGUSR1
    assert check(store) == check(store + ".2") == 7


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_an_ignored_signal_stays_ignored(store: str, name: str) -> None:
    """As beneath nohup, or a scheduler that ignores interrupts."""
    code = f"signal.signal(signal.{name}, signal.SIG_IGN)\n" + IN_WITH
    with child(store, code) as process:
        process.send_signal(signal.Signals[name])
        time.sleep(0.2)
        assert process.poll() is None
        end(process, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert check(store) == 7
    check_resume(store, 7)


#: Says "ready" once more when the close that the first signal caused begins to commit.
STUCK = """
stuck = Stuck()
with termination_as_exit(), writing_through(stuck), open_tiny(path) as writer:
    add_tiny(writer, 1)
    writer.commit()
    stuck.stuck, commit = True, writer._steps.commit
    writer._steps.commit = lambda *given: (ready(), commit(*given))
    spin(writer, 2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_safely(store: str, number: int) -> None:
    """The first waits for a commit that is never done."""
    with child(store, STUCK) as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end(process, number)
    assert process.returncode in (-number, 128 + number)
    check_resume(store, check(store))


#: The disk answers the close's first operation when there is a file beside the store.
CLOSING = """
class Gate(WrappedFiles):
    is_shut = False
    def do(self, kind, call, path, *details):
        if self.is_shut:
            self.is_shut = False
            ready()
            while not os.path.exists(sys.argv[1] + ".answer"):
                time.sleep(0.01)
        return call()

gate = Gate()
with writing_through(gate):
    writer = open_tiny(path)
    add_tiny(writer, 3)
    writer._steps.settle_all()
    gate.is_shut = True
    writer.close()
"""


def test_the_first_interrupt_of_a_close_waits_for_the_commit(store: str) -> None:
    with child(store, CLOSING) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "interrupt again to leave" in process.stderr.readline()
        Path(f"{store}.answer").touch()
        end(process)
    assert process.returncode == -signal.SIGINT
    assert check(store) == 3
    assert TrajectoryDataset(store).status == "complete"


@pytest.mark.parametrize(
    "code",
    [
        "writer = open_tiny(path); add_tiny(writer, 5); ready()",
        "writer = open_tiny(path); add_tiny(writer, 5); ready(); sys.exit(3)",
        "writer = open_tiny(path); add_tiny(writer, 5); ready(); raise ValueError('simulator')",
        "with open_tiny(path) as w: add_tiny(w, 5); ready(); raise ValueError('simulator')",
        """
def work():
    global writer
    writer = open_tiny(path)
    add_tiny(writer, 5)
    ready()
threading.Thread(target=work).start()""",
    ],
    ids=["end", "sys.exit", "exception", "exception-in-with", "another-thread"],
)
def test_an_exit_without_close_commits(store: str, code: str) -> None:
    with child(store, code) as process:
        error = end(process)
    assert ("was not closed" in error) == ("with" not in code)
    assert check(store) == 5
    assert TrajectoryDataset(store).status == "collecting"
    check_resume(store, 5)


def test_a_second_writer_is_refused_while_the_first_lives_and_not_longer(store: str) -> None:
    with child(store, "with open_tiny(path) as writer: spin(writer)") as process:
        with pytest.raises(StoreLockedError, match=f"process {process.pid} on"):
            open_tiny(store, resume=True)
        assert process.poll() is None, "it did not wait for the other"
        end(process, signal.SIGKILL)
    check_resume(store, check(store))


def test_reading_while_another_process_writes(store: str) -> None:
    code = """
with open_tiny(path) as writer:
    ready()
    while not os.path.exists(path + ".seen"):
        add_tiny(writer)
        writer.commit()
"""
    with child(store, code) as process:
        seen: list[int] = []
        while len(set(seen)) < 20:
            assert process.poll() is None
            seen.append(check(store))
        Path(f"{store}.seen").touch()
        end(process)
    assert process.returncode == 0
    assert seen == sorted(seen)
    assert check(store) >= seen[-1]


def test_no_object_says_anything_while_the_interpreter_is_taken_apart(store: str) -> None:
    """Modules lose their names before the last objects die, if something still refers to those."""
    code = """
import atexit, gc

def take_apart():
    for name, module in list(sys.modules.items()):
        if name.startswith("mosaic_collect."):
            for key in list(vars(module)):
                setattr(module, key, None)
    kept.clear()
    gc.collect()

atexit.register(take_apart)  # after all that is registered from here on
kept = []
for encode_in in ("threads", "process"):
    writer = open_tiny(path + encode_in, encode_in=encode_in)
    add_tiny(writer, 3)
    writer.close()
    kept += [writer, writer._pipeline.staging.ring]
del writer
ready()
"""
    with child(store, code) as process:
        assert end(process) == ""
    assert process.returncode == 0
