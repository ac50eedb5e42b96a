"""Fixtures of all tests."""

from __future__ import annotations

import functools
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import service
from tests.envs import INSIDE

#: Tests that ``test_environments`` runs in other environments.
collect_ignore_glob = [] if os.environ.get(INSIDE) else ["*/inside"]
# Threads and files make single examples slow now and then; that is no failure.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")

# Where a test has no credentials, a cloud's own service of them is looked for on this machine only.
os.environ["AWS_METADATA_ENDPOINT"] = "http://127.0.0.1:9"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run files of one ``xdist_group`` in one process, so that their fixtures are made once.

    pytest-xdist 3.8 does it by itself, but not with pytest 9.2, where a test's id is fixed.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return GroupScheduling(config, log)


@functools.cache
def group_of(path: Path) -> str:
    """The group that a file of tests names; empty without one."""
    text = path.read_text("utf-8")
    found = re.search(r'^pytestmark = .*xdist_group\("([^"]+)"\)', text, re.M)
    return found[1] if found else "mjlab" if "mjlab_case.MARKS" in text else ""


@pytest.fixture(autouse=True)
def no_power_cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing takes most of a small test's time, and only tests/durability cuts the power."""
    if "durability" not in request.path.parts:
        monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture
def npy(tmp_path: os.PathLike[str]) -> str:
    """A path at which no file lies yet; beside ``store``, by its name."""
    return os.path.join(tmp_path, "expert.npy")


@pytest.fixture
def store(tmp_path: os.PathLike[str]) -> str:
    """A path at which no store lies yet."""
    return os.path.join(tmp_path, "expert.zarr")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of some 100 bytes, so that small shards hold many of them, and padding."""
    nbytes = 100
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", nbytes)
    return nbytes


@pytest.fixture
def one_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """All stores and runs are called the same, so that two of them can be of the same bytes."""
    monkeypatch.setattr("secrets.token_hex", lambda nbytes: "a5" * nbytes)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, or a skip that says what is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: {', '.join(names)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of an S3 server of this machine."""
    for package in ("obstore", "moto"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with service.s3_server() as place:
        yield place


@pytest.fixture
def s3(s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL at which no store lies yet, with what the environment says of its server."""
    for name, value in service.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*s3_server))
    return f"s3://{service.BUCKET}/{secrets.token_hex(8)}/expert.zarr"
