"""Bars: on stderr, and only if that is a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests import helpers


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["export", "STORE", "NPY"], ["export: 100%"]),
        (["import", "NPY", "MADE"], ["import: 100%"]),
        (["verify", "STORE", "--npy", "NPY"], ["verify: ", "compare: "]),
    ],
)
def test_bars(cli, made, exported, tmp_path, monkeypatch, terminal: bool, command, names) -> None:
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: terminal)
    paths = {"STORE": made, "NPY": exported, "MADE": str(tmp_path / "made.zarr")}
    done = cli(*[paths.get(word, word) for word in command])
    assert done.code == 0
    assert "%|" not in done.out
    for name in names:
        assert (name in done.err) == terminal
    assert done.err == "" or terminal


#: A collection whose simulator prints while it starts, and the words of a fast recording.
COLLECTION = """
import sys
from types import SimpleNamespace
from mosaic_collect.commands.collect import step_bar
with step_bar(5000) as bar:
    print("a simulator starts", file=sys.stderr)
    for step in (1, 2500, 5000):
        stats = SimpleNamespace(seconds=60.0, steps=step, raw_nbytes=8e10, stalled_seconds=3.0)
        bar(SimpleNamespace(num_steps=step, num_envs=4096, stats=stats))
"""


def test_the_bar_of_a_collection_fits_and_begins_with_its_first_step() -> None:
    terminal, end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {**os.environ, "PYTHONPATH": helpers.REPO}
    subprocess.run([sys.executable, "-c", COLLECTION], stderr=end, env=environment, check=True)
    os.close(end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    before, *bars = [line for line in re.split(r"[\r\n]+", shown.decode()) if line]
    assert before == "a simulator starts"
    last = bars[-1]
    assert last.startswith("collect: 100%|██████████| 5000/5000 [")
    assert last.endswith("341k env-steps/s, 1333 MB/s, 5% stalled]")
    assert all(len(line) <= 100 for line in bars)
