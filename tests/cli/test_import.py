"""``mosaic-collect import``: what was made, what is not known, and how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.store.metadata import COLLECTING, COMPLETE
from tests import helpers
from tests.importing import files


def test_says_what_was_made(cli, npy: str, store: str) -> None:
    data = files.save(npy)
    done = cli("import", npy, store)
    assert (done.code, done.err) == (0, "")
    first, fields, *notes = done.out.splitlines()
    valid = data["metadata"]["num_steps"]
    assert first.startswith(f"{store}: 11 steps x 4 envs, {valid} valid pairs, 0 ended")
    assert fields == "fields: " + ", ".join(files.NAMES)
    assert all(note.startswith("note: ") for note in notes)
    assert "no trajectory ids" in notes[0]
    assert TrajectoryDataset(store).status == COMPLETE


def test_options(cli, npy: str, store: str) -> None:
    files.save(npy)
    assert cli("import", npy, store, "--buffer-mb", "0.005", "--compressor", "lz4").code == 0
    state = TrajectoryDataset(store).state
    assert state.compressor.name == "lz4"
    assert state.num_blocks > 1
    cli("import", npy, store + "2", "--buffer-mb", "some").failed("--buffer-mb: expected")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text.npy", "e.zarr"], "not an npy file"),
        (["array.npy", "e.zarr"], "expected a dict"),
        (["folder", "e.zarr"], "folder: expected a name ending in .npy, .hdf5, .h5, .parquet"),
        (["expert.npy", "folder"], "folder exists"),
        (["expert.npy", "text.npy"], "text.npy exists"),
        (["expert.npy", "e.zarr", "--resume"], "no store"),
        (["bad.npy", "e.zarr"], "actions: expected [11, 4, D], got [11, 5, 2]"),
    ],
)
def test_errors(cli, npy: str, tmp_path, monkeypatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    files.save(npy)
    files.save("bad.npy", actions=np.zeros((11, 5, 2), np.float32))
    np.save("array.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("text of more than eight bytes")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    before = sorted(os.listdir())
    cli("import", *arguments).failed(words)
    assert sorted(os.listdir()) == before


def test_an_interrupt_says_how_to_go_on(cli, npy: str, store: str, monkeypatch) -> None:
    files.save(npy)
    with files.interrupted_after(5, monkeypatch):
        done = cli("import", npy, store)
    assert done.code == 130
    assert (
        f"{store}: 5 steps are committed; continue with: the same command with --resume" in done.err
    )
    assert TrajectoryDataset(store).status == COLLECTING
    done = cli("import", npy, store, "--resume")
    assert done.code == 0
    assert "went on at step 5" in done.out
    assert TrajectoryDataset(store).num_steps == 11


def test_an_interrupt_before_the_store(cli, npy: str, store: str, monkeypatch) -> None:
    files.save(npy)

    def interrupted(*arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mosaic_collect.importing.source.FileSource.sha256", interrupted)
    done = cli("import", npy, store)
    assert done.code == 130
    assert "interrupted before the first step" in done.err
    assert not os.path.exists(store)


#: An import that adds half of the steps, and then waits to be ended.
_HALFWAY = """
import signal, sys
from mosaic_collect import TrajectoryWriter
from mosaic_collect.cli import main
add = TrajectoryWriter.add_step
def add_step(self, **rows):
    while self.num_steps == 2000:
        signal.pause()
    add(self, **rows)
TrajectoryWriter.add_step = add_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_what_was_committed(cli, npy: str, store: str, number: int) -> None:
    """A process of its own; SIGTERM is left time to commit, SIGKILL is not."""
    shape = (4000, 8)
    data = {
        "observations": np.arange(4000 * 8 * 20, dtype=np.float32).reshape(*shape, 20),
        "actions": np.arange(4000 * 8 * 4, dtype=np.float32).reshape(*shape, 4),
    }
    np.save(npy, data)
    command = [sys.executable, "-c", _HALFWAY, "import", npy, store, "--buffer-mb", "0.2"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": helpers.REPO})
    try:
        helpers.wait_until(lambda: _steps(store) or process.poll() is not None)
        process.send_signal(number)
        process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()
    committed = TrajectoryDataset(store).num_steps
    assert 0 < committed <= 2000
    assert cli("import", npy, store, "--resume").code == 0
    for name, values in data.items():
        helpers.assert_same(TrajectoryDataset(store).read(name), values, name)


def _steps(store: str) -> int:
    try:
        return TrajectoryDataset(store).num_steps
    except OSError:
        return 0


def test_a_job_that_is_queued_again_goes_on_if_there_is_a_store(cli, npy: str, store: str) -> None:
    files.save(npy)
    for _ in range(2):
        assert cli("import", npy, store, "--auto-resume").code == 0
        assert TrajectoryDataset(store).num_steps == 11
    assert cli("import", "--resume", npy, store).code == 0
    assert cli("import", npy, store, "--resume", "--auto-resume").code == 2
