"""``--json``: reports for programs, an object a line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, export_npy, verify_store
from mosaic_collect.commands.shared import as_json
from mosaic_collect.reading.verify import VerifyReport
from tests.export import stores
from tests.importing import files


@pytest.fixture
def made(store: str, npy: str) -> tuple[str, str]:
    schema = stores.STUDENT.with_ends()
    stores.write(
        store, 10, masks=stores.some_masks(4), ends={9: [0, 2]}, falls={3: [1]}, schema=schema,
        edit=stores.nan_at("actions", (6, 2)), metadata={"robot": "G1"},
    )  # fmt: skip
    export_npy(store, npy)
    return store, npy


def lines(done: Any, code: int = 0) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (code, "")
    return [json.loads(line, parse_constant=pytest.fail) for line in done.out.splitlines()]


def test_export(cli, made: tuple[str, str]) -> None:
    store, npy = made
    (told,) = lines(cli("export", store, npy, "--max-pairs", "7", "--json"))
    report = asdict(export_npy(store, npy, max_pairs=7))
    assert told.pop("seconds") >= 0
    del report["seconds"]
    assert told == json.loads(json.dumps(report))
    assert told["left_out"]["nonfinite"] == 1


def test_verify(cli, made: tuple[str, str]) -> None:
    store, npy = made
    of_store, of_file = lines(cli("verify", store, "--npy", npy, "--json"))
    assert (of_store["path"], of_store["of"], of_store["ok"]) == (store, "shards", True)
    assert (of_file["path"], of_file["of"], of_file["ok"]) == (npy, "arrays", True)
    assert of_store["checked"] == verify_store(store).checked
    stores.flip(os.path.join(store, "actions", "c.1.0.0"), 3)
    (told,) = lines(cli("verify", store, "--npy", npy, "--json"), code=1)
    assert told["ok"] is False
    assert len(told["problems"]) == 1


def test_inspect(cli, made: tuple[str, str]) -> None:
    store, npy = made
    of_store, of_file = lines(cli("inspect", store, npy, "--json"))
    state = TrajectoryDataset(store).state
    assert (of_store["kind"], of_store["metadata"]) == ("store", {"robot": "G1"})
    figures = of_store["figures"]
    for name in ("num_envs", "num_pairs", "num_valid", "num_blocks"):
        assert figures[name] == getattr(state, name)
    assert (figures["num_steps"], figures["num_failed"]) == (10, 1)
    ends = [figures[f"num_{name}"] for name in ("trajectories", "ended", "without_end")]
    table = TrajectoryDataset(store).trajectories
    assert ends == [len(table), state.num_trajectories, table.counts()["interrupted"]]
    assert figures["runs"][0]["versions"]["numpy"] == np.__version__
    shapes = {f["name"]: tuple(f["shape"]) for f in of_store["fields"]}
    assert shapes == {n: TrajectoryDataset(store)[n].shape for n in shapes}
    assert of_store["raw_nbytes"] == sum(f["raw_nbytes"] for f in of_store["fields"])

    metadata = stores.load(npy)["metadata"]
    assert of_file["figures"]["provenance"] == json.loads(json.dumps(metadata["mosaic_collect"]))
    assert of_file["figures"]["num_valid"] == metadata["num_steps"]
    assert of_file["metadata"]["obs_dim_dict"] == metadata["obs_dim_dict"]


def test_inspect_of_what_does_not_tell_of_ends(cli, store: str, tmp_path) -> None:
    stores.write(store, 4)
    os.mkdir(tmp_path / "unborn.zarr")
    told, unborn = lines(cli("inspect", store, str(tmp_path / "unborn.zarr"), "--json"))
    assert told["figures"]["num_failed"] is None
    assert unborn["figures"] == {"status": "unborn", "num_steps": 0}


def test_metadata_that_json_cannot_hold(cli, npy: str) -> None:
    np.save(npy, {"actions": np.zeros((2, 4, 2), np.float32), "metadata": {"a": b"bytes"}})
    assert cli("inspect", npy).code == 0
    cli("inspect", npy, "--json").failed("expert.npy: metadata: expected text, numbers")


def test_import(cli, npy: str, store: str) -> None:
    files.save(npy)
    (told,) = lines(cli("import", npy, store, "--json"))
    assert (told["store"], told["num_steps"], told["first_step"]) == (store, 11, 0)


def test_numbers_that_json_has_not() -> None:
    report = VerifyReport("p", (), (), 0, 0, float("inf"))
    told = json.loads(as_json(report, but=("notes",), share=float("nan")))
    assert (told["seconds"], told["share"]) == ("inf", "nan")
    assert "notes" not in told
