"""A foreign checkpoint, or a store's training config, runs no code beside the installed rsl_rl."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rsl_rl.runners import OnPolicyRunner

from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError
from tests.adapters.hostile import Author
from tests.adapters.inside.toy import GENERATION, ToyEnv, config, record


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """A folder that is there once code ran."""
    return str(tmp_path / "ran")


def with_code(checkpoint: str, mark: str, folder: Path) -> str:
    """A copy of the checkpoint with code beside its weights."""
    content = torch.load(checkpoint, weights_only=True)
    other = str(folder / "hub.pt")
    torch.save({**content, "infos": Author(mark)}, other)
    return other


def test_a_policy_with_code_is_loaded_by_the_word_alone(
    trained: Any, tmp_path: Path, mark: str
) -> None:
    _, checkpoint, recurrent = trained
    foreign, env = with_code(checkpoint, mark, tmp_path), ToyEnv()
    with pytest.raises(InputError, match=r"names posix\.mkdir"):
        load_policy(env, config(recurrent), foreign)
    assert not os.path.exists(mark)
    assert env.asked == 0, "told before a runner is built"
    load_policy(env, config(recurrent), foreign, trust_checkpoint=True)
    assert os.path.exists(mark)


def test_verify_says_so_in_its_words(
    trained: Any, tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, checkpoint, recurrent = trained
    store = str(tmp_path / "expert.zarr")
    record(store, checkpoint, config(recurrent))
    command = ["verify", store, "--checkpoint", with_code(checkpoint, mark, tmp_path)]
    assert main(command) == 2
    assert "--trust-checkpoint reads it all the same" in capsys.readouterr().err
    assert not os.path.exists(mark)
    assert main([*command, "--trust-checkpoint"]) == 0
    assert os.path.exists(mark)


def test_a_stores_config_runs_no_code(
    trained: Any, tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, checkpoint, recurrent = trained
    told = config(recurrent)
    where = told["actor" if GENERATION == 5 else "policy"]
    where["class_name"] = f"__import__('os').mkdir({mark!r})"
    store = str(tmp_path / "hub.zarr")
    record(store, checkpoint, config(recurrent), noted={"runner_cfg": json_safe(told)})
    assert main(["verify", store, "--checkpoint", checkpoint]) == 2
    assert ".class_name names __import__('os')" in capsys.readouterr().err
    assert not os.path.exists(mark)


class Curious(OnPolicyRunner):
    """Reads another file while it is made, as MOSAIC's residual policies do."""

    def __init__(self, env: Any, cfg: dict[str, Any], *rest: Any) -> None:
        torch.load(cfg.pop("beside"), weights_only=False)
        super().__init__(env, cfg, *rest)


def test_files_that_a_config_names_run_no_code(trained: Any, tmp_path: Path, mark: str) -> None:
    _, checkpoint, recurrent = trained
    beside = str(tmp_path / "beside.pt")
    torch.save({"weights": torch.zeros(2), "author": Author(mark)}, beside)
    told = {**config(recurrent), "beside": beside}
    with pytest.raises(InputError, match=r"a file that the policy reads: .*posix\.mkdir"):
        load_policy(ToyEnv(), told, checkpoint, runner_class=Curious)
    assert not os.path.exists(mark)
    load_policy(ToyEnv(), told, checkpoint, runner_class=Curious, trust_checkpoint=True)
    assert os.path.exists(mark)
