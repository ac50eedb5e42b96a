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


def lines(done: Any, code: int = 0) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (code, "")
    return [json.loads(line, parse_constant=pytest.fail) for line in done.out.splitlines()]


def test_export(cli, made: str, exported: str) -> None:
    (told,) = lines(cli("export", made, exported, "--max-pairs", "7", "--json"))
    report = asdict(export_npy(made, exported, max_pairs=7))
    assert told.pop("seconds") >= 0
    del report["seconds"]
    assert told == json.loads(json.dumps(report))
    assert told["left_out"]["nonfinite"] == 1


def test_verify(cli, made: str, exported: str) -> None:
    of_store, of_file = lines(cli("verify", made, "--npy", exported, "--json"))
    assert (of_store["path"], of_store["of"], of_store["ok"]) == (made, "shards", True)
    assert (of_file["path"], of_file["of"], of_file["ok"]) == (exported, "arrays", True)
    assert of_store["checked"] == verify_store(made).checked
    stores.flip(os.path.join(made, "actions", "c.1.0.0"), 3)
    (told,) = lines(cli("verify", made, "--npy", exported, "--json"), code=1)
    assert told["ok"] is False
    assert len(told["problems"]) == 1


def test_inspect(cli, made: str, exported: str) -> None:
    of_store, of_file = lines(cli("inspect", made, exported, "--json"))
    state = TrajectoryDataset(made).state
    assert (of_store["kind"], of_store["metadata"]) == ("store", {"robot": "G1"})
    figures = of_store["figures"]
    for name in ("num_envs", "num_pairs", "num_valid", "num_blocks"):
        assert figures[name] == getattr(state, name)
    assert (figures["num_steps"], figures["num_failed"]) == (10, 1)
    ends = [figures[f"num_{name}"] for name in ("trajectories", "ended", "without_end")]
    table = TrajectoryDataset(made).trajectories
    assert ends == [len(table), state.num_trajectories, table.counts()["interrupted"]]
    assert figures["runs"][0]["versions"]["numpy"] == np.__version__
    shapes = {f["name"]: tuple(f["shape"]) for f in of_store["fields"]}
    assert shapes == {n: TrajectoryDataset(made)[n].shape for n in shapes}
    assert of_store["raw_nbytes"] == sum(f["raw_nbytes"] for f in of_store["fields"])

    metadata = stores.load(exported)["metadata"]
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
