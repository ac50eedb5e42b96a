"""``mosaic-collect verify``: 0 all is well, 1 something is off, 2 it could not be done."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from mosaic_collect import export_npy
from mosaic_collect.npyfile.read import scan_npy
from tests.export import stores

REPLAY = "--checkpoint model.pt"
WITH_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
WITH_PLOTS = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is missing")


def test_all_is_well(cli, made: str, exported: str) -> None:
    done = cli("verify", made)
    assert (done.code, done.err) == (0, "")
    assert f"{made}: ok (32 shards" in done.out
    done = cli("verify", made, "--npy", exported)
    assert (done.code, done.err) == (0, "")
    assert f"{exported}: ok (5 arrays" in done.out


def test_a_damaged_store(cli, made: str, exported: str) -> None:
    stores.flip(os.path.join(made, "actions", "c.1.0.0"), 3)
    os.unlink(os.path.join(made, "action_mean", "c.2.0.0"))
    done = cli("verify", made, "--npy", exported)
    assert (done.code, done.err) == (1, "")
    assert "2 PROBLEMS" in done.out
    assert "problem: " in done.out
    assert "actions, block 1, chunk 0" in done.out
    assert "(steps 3..5, envs 0..3)" in done.out
    assert exported not in done.out, "what is damaged is not compared with"


def test_an_export_that_differs(cli, made: str, exported: str) -> None:
    stores.flip(exported, scan_npy(exported).arrays["action_mean"].offset, 1)
    done = cli("verify", made, "--npy", exported)
    assert (done.code, done.err) == (1, "")
    assert f"{made}: ok" in done.out
    assert f"{exported}: 1 PROBLEM" in done.out
    assert "action_mean, block 0: 1 rows differ" in done.out


def test_notes_are_no_problems(cli, made: str) -> None:
    with open(os.path.join(made, "actions", "c.99.0.0"), "wb") as file:
        file.write(b"x")
    done = cli("verify", made)
    assert done.code == 0
    assert "note: actions: 1 files past the last commit" in done.out


@pytest.mark.parametrize("what", ["cut off", "text", "of others"])
def test_a_file_that_is_no_such_export(cli, made: str, exported: str, what: str) -> None:
    """Not a good export: never 0, and no traceback."""
    if what == "cut off":
        os.truncate(exported, 1000)
    elif what == "text":
        with open(exported, "w") as file:
            file.write("text")
    else:
        np.save(exported, {"actions": np.zeros((1, 1, 1), np.float32), "metadata": {}})
    done = cli("verify", made, "--npy", exported)
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    assert exported in done.out + done.err


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_export_to_be_read(cli, made: str, tmp_path, what: str) -> None:
    path = tmp_path / "e.npy"
    if what == "folder":
        path.mkdir()
    """Told before the store is read."""
    done = cli("verify", made, "--npy", str(path))
    done.failed("e.npy: is a directory" if what == "folder" else "e.npy: no such file")


def test_an_empty_and_an_unfinished_store(cli, store: str) -> None:
    os.mkdir(store)
    done = cli("verify", store)
    assert (done.code, "zero steps" in done.out) == (0, True)
    stores.write(store, 0, complete=False)
    assert cli("verify", store).code == 0


@WITH_TORCH
def test_a_broken_store_is_told_of_before_its_checkpoint(cli, made: str) -> None:
    with open(os.path.join(made, "zarr.json"), "w") as file:
        file.write("{")
    done = cli("verify", made, "--checkpoint", "model.pt")
    assert (done.code, done.err) == (1, "")
    assert "zarr.json is no valid JSON" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *((o, "expected --checkpoint") for o in ("--plot r.png", "--runner-cfg a", "--groups a=3")),
        *(
            (f"{REPLAY} --tolerance {tolerance}", "tolerance: expected a finite number")
            for tolerance in ("nan", "-1", "inf")
        ),
        *(
            (f"{REPLAY} --groups {group}", "expected NAME=WIDTH, such as policy=154")
            for group in ("policy", "policy=", "=3", "policy=0", "policy=x")
        ),
        (f"{REPLAY} --runner-cfg none.json", "--runner-cfg: cannot read none.json: no such file"),
        pytest.param(REPLAY, "runner_cfg", marks=WITH_TORCH),
        pytest.param(f"{REPLAY} --plot r.txt", "--plot: expected an ending of", marks=WITH_PLOTS),
        pytest.param(f"{REPLAY} --plot r.txt", "png", marks=WITH_PLOTS),
    ],
)
def test_options_of_a_replay_are_refused_before_the_store_is_read(
    cli, made: str, options: str, words: str
) -> None:
    cli("verify", made, *options.split()).failed(words)


def test_without_torch(cli, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("mosaic_collect.replay.policy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    done = cli("verify", made, "--checkpoint", "model.pt")
    done.failed("mosaic-collect verify: the replay check needs torch")


@pytest.fixture
def merged(made: str, npy: str, tmp_path) -> tuple[str, str, str]:
    """Two stores and their file."""
    other = str(tmp_path / "other.zarr")
    stores.write(other, 6, first=50, num_envs=2, schema=stores.STUDENT.with_ends())
    export_npy([made, other], npy)
    return made, other, npy


def test_several_stores_and_their_file(cli, merged: tuple[str, str, str]) -> None:
    store, other, npy = merged
    done = cli("verify", store, other, "--npy", npy)
    assert (done.code, done.err) == (0, "")
    assert [line.split(": ")[0] for line in done.out.splitlines()] == [store, other, npy]
    done = cli("verify", other, store, "--npy", npy)
    assert done.code == 1
    assert "10 steps, the store" in done.out
    done = cli("verify", store, store, "--npy", npy)
    assert done.code == 2
    assert "the same store as" in done.err


def test_each_store_is_looked_at_whatever_the_first_is_like(
    cli, merged: tuple[str, str, str]
) -> None:
    store, other, npy = merged
    for path in (store, other):
        stores.flip(os.path.join(path, "actions", "c.1.0.0"), 3)
    done = cli("verify", store, other, "--npy", npy)
    assert done.code == 1
    assert done.out.count("1 PROBLEM") == 2
    assert npy not in done.out


@WITH_PLOTS
def test_one_picture_of_several_stores_is_refused(cli, merged: tuple[str, str, str]) -> None:
    store, other, _ = merged
    done = cli("verify", store, other, "--checkpoint", "model.pt", "--plot", "replay.png")
    done.failed("plot: expected one store")
