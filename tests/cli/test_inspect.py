"""``mosaic-collect inspect``: stores and exports, told in a screen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy
from mosaic_collect.look.inspect import summarize
from tests import helpers
from tests.export import stores
from tests.npyfile import pickles


def test_a_store(cli, store: str) -> None:
    stores.write(
        store, 10, masks=stores.some_masks(4), ends={3: [0, 1], 9: [2]}, schema=stores.STUDENT,
        edit=stores.nan_at("actions", (1, 1)), metadata={"robot": "G1", "seeds": [1, 2]},
    )  # fmt: skip
    done = cli("inspect", store)
    assert (done.code, done.err) == (0, "")
    dataset = TrajectoryDataset(store)
    valid = dataset.num_valid
    for words in (
        f"store {store}",
        "complete",
        "10 x 4 envs",
        f"40, of them {valid} valid ({valid / 40:.1%})",
        "3 ended",
        "3 steps, 4 blocks",
        "zstd",
        "numpy",
        "robot: G1",
        "seeds: [1, 2]",
    ):
        assert words in done.out
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for name in dataset.fields:
        shape = " x ".join(map(str, dataset[name].shape))
        assert shape in lines[name]
    assert lines["actions"].split()[-1] == "1", "the pair with NaN"
    assert lines["student_observations"].split()[-1] == "0"


def test_sizes_are_those_of_the_files(store: str) -> None:
    stores.write(store, 30, num_envs=8)
    summary = summarize(store)
    assert {f.name for f in summary.fields} == set(TrajectoryDataset(store).fields)
    for field in summary.fields:
        folder = os.path.join(store, field.name)
        shards = [n for n in os.listdir(folder) if n.startswith("c.")]
        assert field.stored_nbytes == sum(os.path.getsize(os.path.join(folder, n)) for n in shards)
        assert field.raw_nbytes == TrajectoryDataset(store)[field.name].nbytes
    assert summary.stored_nbytes == sum(f.stored_nbytes for f in summary.fields)


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_an_export(cli, store: str, npy: str, layout: str) -> None:
    stores.write(store, 10, masks=stores.some_masks(4), ends={3: [0]}, metadata={"robot": "G1"})
    report = export_npy(store, npy, layout=layout)
    done = cli("inspect", npy)
    assert (done.code, done.err) == (0, "")
    for words in (f"export {npy}", layout, "10 steps x 4 envs", f"{report.num_pairs}"):
        assert words in done.out
    for name, shape in report.shapes.items():
        line = next(x for x in done.out.splitlines() if x.split()[:1] == [name])
        assert " x ".join(map(str, shape)) in line
    if layout == "compact":
        assert "16 invalid" in done.out or f"{40 - report.num_pairs} invalid" in done.out


def test_an_export_of_upstream(cli, npy: str) -> None:
    metadata = {"num_trajectories": 3, "num_steps": 8, "has_valid_mask": False}
    np.save(npy, {"actions": np.zeros((2, 4, 2), np.float32), "metadata": metadata})
    done = cli("inspect", npy)
    assert done.code == 0
    assert "2 x 4 x 2" in done.out
    assert "num_steps: 8" in done.out


def test_stores_of_all_states(cli, store: str) -> None:
    os.mkdir(store)  # killed before its first document
    assert "no steps yet" in cli("inspect", store).out
    with helpers.open_writer(store) as writer:
        out = cli("inspect", store).out
        assert "collecting" in out
        assert "0 x 4 envs" in out
        helpers.add(writer, 0, 1)
        writer.commit()
        assert "2 x 4 envs" in cli("inspect", store).out
    out = cli("inspect", store, store).out
    assert (out.count("complete"), out.count(f"store {store}")) == (2, 2)


def test_a_large_export_without_loading_it(cli, npy: str) -> None:
    """A file of 4 GiB that is mostly a hole."""

    def bytes_read() -> int:
        with open("/proc/self/io") as file:
            return int(file.readline().removeprefix("rchar: "))

    pickles.write_hole(npy)
    before = bytes_read()
    assert "1,048,576 x 1,024 x 1" in cli("inspect", npy).out
    assert bytes_read() - before < 50e6


@pytest.mark.parametrize("content", [b"", b"text\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_file_of_something_else(cli, npy: str, content: bytes) -> None:
    with open(npy, "wb") as file:
        file.write(content)
    cli("inspect", npy).failed("expert.npy")


def test_a_damaged_root(cli, store: str) -> None:
    stores.write(store, 4)
    stores.flip(os.path.join(store, "zarr.json"), 0)
    cli("inspect", store).failed("expert.zarr", "JSON")


def test_metadata_of_any_length_takes_a_line_each(cli, store: str) -> None:
    stores.write(store, 2, metadata={"long": "x" * 10_000, "lines": "one\ntwo", "list": [1] * 999})
    short = cli("inspect", store).out.split("metadata:\n", 1)[1]
    assert "1 more metadata entries: --metadata shows them" in short
    assert "long" not in short
    out = cli("inspect", store, "--metadata").out
    told = out.split("metadata:\n", 1)[1].splitlines()
    assert len(told) == 3
    assert max(map(len, told)) < 300


def test_failed_trajectories_are_counted_where_the_store_knows_them(cli, store: str) -> None:
    ends, falls = {3: [0, 1], 9: [2]}, {4: [3, 2], 8: [0]}
    stores.write(store, 10, ends=ends, falls=falls, schema=stores.STUDENT.with_ends())
    assert "6 ended, 3 of them failed, 3 without an end" in cli("inspect", store).out
    stores.flip(os.path.join(store, "trajectory_end", "c.1.0"), 0)
    assert "6 ended, how is damaged" in cli("inspect", store).out


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "latin-1", "utf-8"])
def test_any_terminal(tmp_path, encoding: str) -> None:
    """Names and words of others, and a file name that is no text of any encoding."""
    store = str(tmp_path / "Übung \udcff.zarr")
    with helpers.open_writer(store, metadata={"Größe": "½ → 猫"}) as writer:
        helpers.add(writer, 0)
    done = subprocess.run(
        [sys.executable, "-m", "mosaic_collect", "inspect", store],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": helpers.REPO},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    told = done.stdout.decode(encoding.partition(":")[0])
    assert "pairs" in told
    assert ("Größe: ½ → 猫" in told) == (encoding == "utf-8")
    assert ("\\u732b" in told) == (encoding != "utf-8")
    assert "\\udcff" in told


def test_numbers_that_json_lacks_refuse_no_file(cli, npy: str, store: str) -> None:
    told = {"loss": float("nan"), "best": [float("inf"), 1.5]}
    rows = {name: np.zeros((2, 4, 2), np.float32) for name in ("observations", "actions")}
    np.save(npy, {**rows, "metadata": told})
    assert "loss: nan" in cli("inspect", npy).out
    assert json.loads(cli("inspect", npy, "--json").out)["metadata"] == {
        "loss": "nan",
        "best": ["inf", 1.5],
    }
    assert cli("import", npy, store).code == 0
    kept = TrajectoryDataset(store).metadata["imported_from"]["metadata"]
    assert kept == {"loss": "nan", "best": ["inf", 1.5]}


def test_a_zipped_store(cli, store: str) -> None:
    stores.write(store, 4)
    path = shutil.make_archive(store, "zip", store)
    for command in ("inspect", "verify", "export"):
        cli(command, path).failed("the zip archive", "zipfile -e")
