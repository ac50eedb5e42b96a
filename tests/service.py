"""An S3 server on this machine, and a proxy before it that fails as it is told."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "bucket"
#: What obstore takes from the environment.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
Fault = int | str | None
#: Ways in which a request may fail: answered so; not passed on, but cut in the middle; passed on,
#: but its answer lost, cut in the middle, or said to have failed; nothing at all for a while.
FAULTS: tuple[Fault, ...] = (500, 503, "cut request", "lost answer", "cut answer", "500 but done")


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """A server of its own process with an empty bucket; its host and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    host, port = process.stdout.readline().split()
    try:
        made = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made).close()
        yield host, int(port)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def s3_folder() -> Iterator[str]:
    """A URL below which there is nothing yet, of a server to which the environment leads."""
    with s3_server() as (host, port):
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=f"http://{host}:{port}")
        yield f"s3://{BUCKET}/here"


class Proxy(ThreadingHTTPServer):
    """Passes requests on, unless ``plan`` says otherwise.

    Args:
        target: Host and port of the server behind it.
        plan: Gives a request's fault by its method and path.

    Attributes:
        log: Method, path and fault of each request.
        nbytes: Of bodies, both ways.
    """

    daemon_threads = True

    def __init__(
        self, target: tuple[str, int], plan: Callable[[str, str], Fault] = lambda *_: None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.plan = target, plan
        self.log: list[tuple[str, str, Fault]] = []
        self.nbytes = 0
        self.slow_seconds = 0.0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Clients go away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        proxy, length = self.server, int(self.headers.get("Content-Length") or 0)
        fault = proxy.plan(self.command, self.path)
        proxy.log.append((self.command, self.path, fault))
        time.sleep(proxy.slow_seconds)
        if fault == "cut request":
            self.rfile.read(length // 2)
            return self._cut()
        body = self.rfile.read(length)
        proxy.nbytes += length
        if isinstance(fault, int):
            return self._answer(fault, {}, b"")
        if fault == "nothing":
            time.sleep(5.0)
            return self._cut()
        status, headers, data = self._asked(body)
        if fault == "lost answer":
            return self._cut()
        if fault == "500 but done":
            return self._answer(500, {}, b"")
        proxy.nbytes += len(data)
        if fault == "cut answer":
            self._answer(status, headers, data[: len(data) // 2])
            return self._cut()
        return self._answer(status, headers, data)

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.target)
        with contextlib.closing(connection):
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            data = response.read()
            left_out = ("connection", "transfer-encoding", "server", "date")
            headers = {k: v for k, v in response.getheaders() if k.lower() not in left_out}
        headers.setdefault("Content-Length", str(len(data)))
        return response.status, headers, data

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815
