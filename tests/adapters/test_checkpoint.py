"""Checkpoints: what runs while they are read, the names in them, and MOSAIC's fork."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect.adapters.rsl_rl import load
from mosaic_collect.adapters.rsl_rl.checkpoint import (
    RSL2,
    Checkpoint,
    file_identity,
    weights_only,
    without_prefixes,
)
from mosaic_collect.errors import InputError
from tests.adapters.hostile import Author


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "model.pt")


def ordinary() -> dict[str, Any]:
    """What runners of rsl_rl save: states of networks and optimisers, a number, their infos."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ELU())
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "actor_state_dict": network.state_dict(),
        "critic_state_dict": OrderedDict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "std": torch.nn.Parameter(torch.ones(2)),  # MOSAIC's residual policy saves one so
        "iter": 7,
        "infos": {"env_state": {"common_step_counter": 12}, "note": None, "rate": 0.5},
    }


def test_ordinary_ones_need_no_word(path: str) -> None:
    torch.save(ordinary(), path)
    content = Checkpoint.read(path).content
    assert content["iter"] == 7
    assert content["infos"]["env_state"] == {"common_step_counter": 12}
    assert content["optimizer_state_dict"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert set(content["actor_state_dict"]) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("where", ["infos", "actor_state_dict", "key"])
def test_code_is_named_and_does_not_run(path: str, tmp_path: Path, where: str) -> None:
    mark = str(tmp_path / "ran")
    content = {**ordinary(), **({where: Author(mark)} if where != "key" else {Author(mark): 1})}
    torch.save(content, path)
    with pytest.raises(InputError) as caught:
        Checkpoint.read(path)
    said = str(caught.value)
    assert f"checkpoint {path}: holds more than tensors and numbers and names posix.mkdir" in said
    assert "trust_checkpoint=True" in said
    assert not os.path.exists(mark)
    with contextlib.suppress(InputError):  # what is left may be no checkpoint
        Checkpoint.read(path, trust=True)
    assert os.path.exists(mark)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (dt.date(2026, 1, 1), "datetime.date"),
        (Path("x"), "pathlib"),
        (np.float64(1.5), "multiarray.scalar"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (os.system, "posix.system"),
        (eval, "eval"),
    ],
)
def test_whatever_needs_more_is_named(path: str, value: Any, name: str) -> None:
    torch.save({"actor_state_dict": {}, "infos": value}, path)
    with pytest.raises(InputError, match=name):
        Checkpoint.read(path)
    assert Checkpoint.read(path, trust=True).family == "5.x"


def test_older_forms_are_read_by_the_word_alone(path: str, tmp_path: Path) -> None:
    torch.save(ordinary(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="without running code: expected the zip archive"):
        Checkpoint.read(path)
    assert Checkpoint.read(path, trust=True).content["iter"] == 7
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(InputError, match="expected the zip archive"):
        Checkpoint.read(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_another_pickle_protocol(path: str) -> None:
    torch.save({"actor_state_dict": {}, "note": "x" * 9}, path, pickle_protocol=4)
    with pytest.raises(InputError, match="holds more than tensors and numbers"):
        Checkpoint.read(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_none(path: str) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(InputError, match="got a program of TorchScript"):
        Checkpoint.read(path)


def test_torn_and_swollen_ones(path: str) -> None:
    torch.save(ordinary(), path)
    whole = Path(path).read_bytes()
    for size in (3, 100, len(whole) // 2, len(whole) - 3):
        Path(path).write_bytes(whole[:size])
        with pytest.raises(InputError, match=f"checkpoint {path}"):
            Checkpoint.read(path)
    Path(path).write_bytes(whole)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(50_000_000))
    with pytest.raises(InputError, match="claims more than its size"):
        Checkpoint.read(path)


def test_within_nobody_unpickles_whatever_he_asks_for(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = str(tmp_path / "ran")
    torch.save(Author(mark), path)
    with (
        pytest.raises(InputError, match=r"a file that the policy reads: .* posix\.mkdir"),
        weights_only(trust=False),
    ):
        torch.load(path, weights_only=False)
    assert not os.path.exists(mark)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with weights_only(trust=True):
        torch.load(path, weights_only=False)
    assert os.path.exists(mark)


def test_a_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert file_identity("m.pt") == {"path": str(tmp_path / "m.pt"), "sha256": sha256}
    with pytest.raises(InputError, match=r"none\.pt: cannot be read"):
        file_identity("none.pt")


def test_loaders_are_handed_what_was_read(path: str) -> None:
    torch.save(ordinary(), path)
    checkpoint = Checkpoint.read(path)
    os.unlink(path)
    with checkpoint.as_file() as again:
        content = torch.load(again, weights_only=True)
        assert os.path.basename(again) == "model.pt"
    assert not os.path.exists(again)
    assert content["iter"] == 7
    state, read = content["actor_state_dict"], checkpoint.state("actor_state_dict")
    assert all(torch.equal(state[key], read[key]) for key in read)


NAMES = ("actor.0.weight", "actor.0.bias", "std")
OWN = {"actor_state_dict": dict.fromkeys(NAMES, 0), "iter": 3}


def states(*names: str) -> dict[str, Any]:
    return {"actor_state_dict": dict.fromkeys(names, 0), "iter": 3}


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        [f"_orig_mod.{n}" for n in NAMES],
        [f"module.{n}" for n in NAMES],
        [f"module._orig_mod.{n}" for n in NAMES],
        [f"_orig_mod.module.{n}" for n in NAMES],
        ["actor._orig_mod.0.weight", "actor._orig_mod.0.bias", "std"],
    ],
    ids=["plain", "compiled", "parallel", "both", "the other way", "a part alone"],
)
def test_a_wrapped_network_has_its_own_names(names: Any) -> None:
    assert without_prefixes(states(*names)) == OWN


def test_all_networks_of_a_checkpoint_and_parts_of_parts() -> None:
    content = {
        "model_state_dict": {"residual": {"_orig_mod.w": 1}, "teacher": {"module.w": 2}},
        "obs_norm_state_dict": {"_orig_mod._mean": 3},
        "optimizer_state_dict": {"state": {0: {"step": 4}}, "param_groups": [{"params": [0]}]},
    }
    assert without_prefixes(content) == {
        **content,
        "model_state_dict": {"residual": {"w": 1}, "teacher": {"w": 2}},
        "obs_norm_state_dict": {"_mean": 3},
    }


@pytest.mark.parametrize(
    "names",
    [
        ("module.weight", "head.weight"),
        ("_orig_mod.w", "w"),
        ("actor.module.weight", "std"),
    ],
    ids=["a part of that name", "two of one name", "a part's part of that name"],
)
def test_what_may_be_the_networks_own_stays(names: Any) -> None:
    assert without_prefixes(states(*names)) == states(*names)


@pytest.mark.parametrize("content", [None, [], {}, {"model_state_dict": 3}, {1: {"module.w": 2}}])
def test_what_is_no_checkpoint_stays(content: Any) -> None:
    assert without_prefixes(content) == content


def test_torchs_own_wrapper_says_these_names(path: str) -> None:
    """Compiling does nothing before the first call."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    wrapped = torch.compile(network, backend="eager").state_dict()
    assert set(wrapped) != set(network.state_dict())
    torch.save({"actor_state_dict": wrapped}, path)
    assert set(Checkpoint.read(path).content["actor_state_dict"]) == set(network.state_dict())


class BuiltError(Exception):
    """The runner would be made now."""


def test_no_expert_file_is_loaded_and_no_sigma_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_runner(env: Any, config: dict[str, Any], *_: Any) -> Any:
        raise BuiltError(config)

    monkeypatch.setattr(load, "generation", lambda: 2)
    monkeypatch.setattr(load, "build_runner", build_runner)
    checkpoint = Checkpoint("m.pt", {}, RSL2)
    monkeypatch.setattr(Checkpoint, "read", lambda path, trust: checkpoint)
    given = {"algorithm": {"class_name": "MOSAIC", "expert_trajectory_path": "huge.npy"}}
    with pytest.raises(BuiltError) as built:
        load.load_policy(None, given, "m.pt")
    assert built.value.args[0] == {
        "reset_noise_std_on_resume": False,
        "algorithm": {"class_name": "MOSAIC", "expert_trajectory_path": None},
    }
    assert given["algorithm"]["expert_trajectory_path"] == "huge.npy"
