"""Object storage over HTTP: kills, rivals, and a service that fails in every way it can."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("obstore")
from obstore.store import S3Store

from mosaic_collect.errors import StoreExistsError, StoreNotFoundError
from tests import service
from tests.durability import torture
from tests.durability.figures import count
from tests.durability.recording import WrappedFiles
from tests.durability.rig import add_tiny, check, check_resume, open_tiny
from tests.durability.rivals import Campaign
from tests.durability.test_processes import IN_WITH, child, end

STEPS, SEED = 7, 11
_QUICK = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5)}


class Failing:
    """A plan for a proxy: requests fail so from number ``first`` on, ``times`` of them.

    Attributes:
        count: Requests so far.
        failed: Of them.
    """

    def __init__(self, fault: service.Fault, first: int, times: int) -> None:
        self._fault, self._first, self._times = fault, first, times
        self._order = threading.Lock()
        self.count = self.failed = 0

    def __call__(self, method: str, path: str) -> service.Fault:
        with self._order:
            self.count += 1
            fails = self._first <= self.count < self._first + self._times
            self.failed += fails
            return self._fault if fails else None


@pytest.fixture
def proxy(s3: str, s3_server: tuple[str, int]) -> Iterator[service.Proxy]:
    """Before the server of ``s3``."""
    with service.Proxy(s3_server) as found:
        yield found


def through(proxy: service.Proxy, url: str, retries: int = 10, seconds: float = 30.0) -> S3Store:
    """The store at the URL through the proxy, with retries that come at once."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(
        bucket,
        prefix=prefix,
        endpoint=proxy.url,
        client_options={"allow_http": True, "timeout": timedelta(seconds=seconds)},
        retry_config={"max_retries": retries, "backoff": _QUICK},
    )


def script(store: Any) -> None:
    """All that a writer does: blocks, a partial one that grows, a resume."""
    with open_tiny(store) as writer:
        add_tiny(writer, 1)
        writer.commit()
        writer.end_trajectories([0])
        add_tiny(writer, 3)
    with open_tiny(store, None, resume=True) as writer:
        add_tiny(writer, STEPS - 4)


@contextmanager
def naming(url: str) -> Iterator[None]:
    """What fails inside says where."""
    try:
        yield
    except OSError as error:
        if url not in str(error):
            raise AssertionError("an error that does not say where") from error
        raise


def requests(proxy: service.Proxy, url: str) -> int:
    """How many the script makes, and its check."""
    proxy.plan = plan = Failing(None, 0, 0)
    script(through(proxy, url))
    check(through(proxy, url))
    return plan.count


@pytest.mark.parametrize("fault", service.FAULTS, ids=str)
def test_what_fails_once_is_tried_again(
    s3: str, proxy: service.Proxy, fault: service.Fault
) -> None:
    total = requests(proxy, f"{s3}/0")
    for first in range(1 + service.FAULTS.index(fault), total + 1, 11):
        proxy.plan = plan = Failing(fault, first, 1)
        store = through(proxy, f"{s3}/{first}")
        script(store)
        assert check(store) == STEPS
        assert plan.failed == 1
        count("object storage: requests that failed and were tried again")
        assert check(f"{s3}/{first}") == STEPS


def test_an_upload_that_gets_no_answer_is_sent_again(s3: str, proxy: service.Proxy) -> None:
    """obstore itself leaves those: it does not know that a put which came twice is harmless."""
    left = iter(["nothing", None, "nothing"])
    proxy.plan = lambda method, path: next(left, None) if method == "PUT" else None
    store = through(proxy, s3, seconds=2.0)
    script(store)
    assert check(store) == STEPS


@pytest.mark.parametrize("fault", [500, 403, "cut request"], ids=str)
def test_what_goes_on_failing_is_told_and_resumed_from(
    s3: str, proxy: service.Proxy, fault: service.Fault
) -> None:
    total = requests(proxy, f"{s3}/0")
    for first in range(1, total + 1, 9):
        url = f"{s3}/{first}"
        proxy.plan = Failing(fault, first, 10**9)
        # An OSError of a read, a WriteError of all else; where only the end failed, none.
        with contextlib.suppress(OSError), naming(url):
            script(through(proxy, url, retries=1))
        count("object storage: failures that lasted, each told and resumed from")
        try:
            steps = check(url)
        except StoreNotFoundError:
            steps = 0
        check_resume(url, steps)


def hold_shards(proxy: service.Proxy) -> tuple[threading.Event, threading.Event]:
    """Let puts of shards hang; an event that is set when one does, and one that ends it."""
    held, gate = threading.Event(), threading.Event()

    def plan(method: str, path: str) -> None:
        if "/c." in path and method == "PUT":
            held.set()
            gate.wait(300)

    proxy.plan = plan
    return held, gate


def test_a_service_that_hangs_fills_the_ring_and_then_waits(s3: str, proxy: service.Proxy) -> None:
    """Nothing is dropped, no more is held than the ring, and all is there in the end."""
    writer = open_tiny(through(proxy, s3))
    held, gate = hold_shards(proxy)
    added: list[int] = []

    def add() -> None:
        for _ in range(20):
            add_tiny(writer)
            added.append(writer.num_steps)

    thread = threading.Thread(target=add)
    thread.start()
    assert held.wait(300)
    thread.join(0.5)
    assert thread.is_alive()
    ring = 3 * writer._state.block_steps
    assert len(added) <= ring + 1
    gate.set()
    thread.join()
    writer.close()
    assert writer.stats.stalled_seconds > 0
    assert check(s3) == 20


@pytest.mark.parametrize(("encode_in", "kills"), [("threads", 8), ("process", 4)])
def test_kills(encode_in: str, kills: int) -> None:
    options = ["--kills", str(kills), "--seed", str(SEED), "--s3", "--encode-in", encode_in]
    result = torture.apart(*options)
    assert result.returncode == 0, result.stderr
    count("object storage: kills survived", kills)
    assert result.stdout.splitlines()[0].split() == ["kills", str(kills)]


def test_rivals(s3: str) -> None:
    campaign = Campaign(s3)
    for seed in range(3):
        campaign.round(seed)
    assert campaign.commits > 0
    count("object storage: sessions of rival writers", campaign.sessions)


def test_no_file_is_touched(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoFiles(WrappedFiles):
        def do(self, kind: str, call: Any, path: str, *details: Any) -> Any:
            raise AssertionError((kind, path))

    monkeypatch.setattr("mosaic_collect.store.posix.PosixFiles", NoFiles)
    script(s3)
    assert check(s3) == STEPS


def test_an_empty_store_is_not_taken_from_a_writer_that_may_live(s3: str) -> None:
    """No lock shows whether it does, and what it added and did not commit would be lost."""
    with open_tiny(s3) as writer:
        with pytest.raises(StoreExistsError, match=r"cannot be known there: resume=True"):
            open_tiny(s3)
        add_tiny(writer, 3)
    assert check(s3) == 3


def test_an_exit_without_close_commits(s3: str) -> None:
    with child(s3, "writer = open_tiny(path); add_tiny(writer, 5); ready()") as process:
        assert "was not closed" in end(process)
    assert check(s3) == 5
    check_resume(s3, 5)


def test_a_second_interrupt_does_not_wait_for_a_service_that_hangs(
    s3: str, proxy: service.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, gate = hold_shards(proxy)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    try:
        with child(s3, IN_WITH.replace("spin(writer)", "spin(writer, 1)")) as process:
            process.send_signal(signal.SIGINT)
            assert held.wait(300), "the first waits for the commit"
            end(process, signal.SIGINT)
    finally:
        gate.set()
    assert process.returncode == -signal.SIGINT
    proxy.plan = lambda method, path: None
    check_resume(s3, check(s3))


def test_recording_where_the_system_refuses_files_in_memory(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sandbox may: uploads are then gathered in a temporary file."""

    def refuse(*args: Any) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.memfd_create", refuse)
    script(s3)
    assert check(s3) == STEPS
