"""``--workers`` and ``--scheduler``: the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mosaic_collect import DaskEngine
from tests import helpers
from tests.cli.conftest import Done, cli  # noqa: F401  a fixture
from tests.export import stores

Cli = Callable[..., Done]


@pytest.fixture
def address(engine: DaskEngine) -> str:
    return str(engine._client.scheduler.address)


def without_seconds(text: str) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in text.splitlines()]


def test_verify(cli: Cli, store: str, address: str) -> None:  # noqa: F811
    stores.write(store, 30)
    for damaged in (False, True):
        if damaged:
            stores.flip(os.path.join(store, "actions", "c.1.0.0"), 3)
        alone = cli("verify", store)
        for option in (("--scheduler", address), ("--workers", "1")):
            done = cli("verify", store, *option)
            assert (done.code, done.err) == (alone.code, "") == (int(damaged), "")
            assert without_seconds(done.out) == without_seconds(alone.out)


def test_export(cli: Cli, store: str, npy: str, address: str) -> None:  # noqa: F811
    stores.write(store, 30, masks=stores.some_masks(4))
    assert cli("export", store, npy).code == 0
    alone = open_bytes(npy)
    done = cli("export", store, npy, "--scheduler", address)
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert open_bytes(npy) == alone
    done = cli("verify", store, "--npy", npy, "--scheduler", address)
    assert (done.code, done.err) == (0, "")
    assert f"{npy}: ok (4 arrays" in done.out


def test_figures(cli: Cli, store: str, address: str) -> None:  # noqa: F811
    schema = stores.STUDENT.with_ends()
    stores.write(store, 30, falls={5: [1, 3]}, schema=schema)
    for command in ("stats", "inspect"):
        alone = json.loads(cli(command, store, "--json").out)
        found = json.loads(cli(command, store, "--json", "--scheduler", address).out)
        assert {**found, "seconds": 0} == {**alone, "seconds": 0}


def open_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_the_clusters_log_stays_out_of_it(store: str) -> None:
    """In a process of its own, whose log goes to stderr."""
    stores.write(store, 6)
    command = [sys.executable, "-m", "mosaic_collect", "verify", store, "--workers", "1"]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_cluster(cli: Cli, store: str) -> None:  # noqa: F811
    stores.write(store, 3)
    cli("verify", store, "--workers", "0").failed("--workers: expected a whole number from 1")
    cli("verify", store, "--scheduler", "no://x").failed("--scheduler: cannot reach no://x")


def test_an_interrupt_of_local_workers_is_one_line(store: str) -> None:
    """Ctrl-C reaches the whole group of processes, as in a terminal."""
    stores.write(store, 30)
    code = (
        "import os, signal, sys\n"
        # Whoever runs the tests may ignore it, as a shell does for what it starts by &.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mosaic_collect.cli import main\n"
        "def measure(*given, **more): os.killpg(0, signal.SIGINT); signal.pause()\n"
        "if __name__ == '__main__':\n"
        "    import mosaic_collect.commands.look as look\n"
        "    look.store_statistics = measure\n"
        f"    sys.exit(main(['stats', {store!r}, '--workers', '2']))\n"
    )
    script = os.path.join(os.path.dirname(store), "interrupted.py")
    with open(script, "w") as file:
        file.write(code)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": helpers.REPO},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "mosaic-collect stats: interrupted\n"
