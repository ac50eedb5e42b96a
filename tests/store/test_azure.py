"""The same on Azure's protocol: with Azurite, where MOSAIC_COLLECT_AZURITE names ``azurite-blob``.

npm install azurite; MOSAIC_COLLECT_AZURITE=node_modules/.bin/azurite-blob
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

import mosaic_collect as mc
from mosaic_collect.errors import StoreLostError
from tests.durability.rig import TINY_ENDS, add_tiny, check, check_resume, open_tiny

pytest.importorskip("obstore", reason="obstore is not installed")
AZURITE = os.environ.get("MOSAIC_COLLECT_AZURITE")
pytestmark = pytest.mark.skipif(AZURITE is None, reason="MOSAIC_COLLECT_AZURITE names no Azurite")
#: Azurite's own, which its documentation names.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def az(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL at which no store lies yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    server = subprocess.Popen([str(AZURITE), *options, *where], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        make_container(f"{url}/{ACCOUNT}/box", time.monotonic() + 60)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", url)
        yield "az://box/runs/expert.zarr"
    finally:
        server.kill()
        server.wait()


def make_container(url: str, deadline: float) -> None:
    """By a signed request, as soon as the server answers."""
    date = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    told = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    text = "PUT" + "\n" * 12 + told + f"/{ACCOUNT}/{ACCOUNT}/box\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(f"{url}?restype=container", method="PUT", headers=headers)
    while True:
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            urllib.request.urlopen(request).close()
            return
        assert time.monotonic() < deadline, "Azurite does not answer"
        time.sleep(0.2)


def test_a_store_is_recorded_resumed_lost_and_copied(az: str, store: str) -> None:
    with open_tiny(az, TINY_ENDS) as writer:
        add_tiny(writer, 3)
        writer.commit()
        add_tiny(writer, 4)
        writer.end_trajectories([0])
    assert check(az) == 7
    assert mc.verify_store(az).ok
    check_resume(az, 7)
    first = open_tiny(az, None, resume=True)
    add_tiny(first)
    with open_tiny(az, None, resume=True) as second:
        add_tiny(second, 5)
        second.commit()
        for call in (first.commit, first.close):
            with pytest.raises(StoreLostError):
                call()
    assert check(az) == 15
    assert mc.copy_store(az, store).copied
    assert check(store) == 15
    with pytest.raises(OSError, match="there is no such bucket"):
        mc.TrajectoryDataset("az://none/expert.zarr")
