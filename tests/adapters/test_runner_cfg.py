"""A training config as JSON, read from files, and the names of code in it."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.adapters.rsl_rl.runner_cfg import check_class_names, json_safe, read_runner_cfg
from mosaic_collect.errors import InputError, MissingDependencyError

needs_yaml = pytest.mark.skipif(find_spec("yaml") is None, reason="PyYAML is not installed")


class Point:
    def __str__(self) -> str:
        return "a point"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": (1, 2.5), "b": {3: None}}, {"a": [1, 2.5], "b": {"3": None}}),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (np.bool_(True), True),
        (dataclasses.MISSING, {}),
        (float("inf"), "inf"),
        (int, "builtins:int"),
        (np.float32, "numpy:float32"),
        (json.dumps, "json:dumps"),
        (Point(), "a point"),
    ],
)
def test_configs_as_json(value: Any, kept: Any) -> None:
    made = json_safe({"x": value})
    assert made == {"x": kept}
    assert type(made["x"]) is type(kept)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_tensors_as_json() -> None:
    torch = pytest.importorskip("torch")
    assert json_safe([torch.tensor([1.5, 2.0]), torch.tensor(True)]) == [[1.5, 2.0], True]


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_json(tmp_path: Path) -> None:
    path = write(tmp_path, "agent.json", '{"policy": {"hidden": [1, 2]}}')
    assert read_runner_cfg(path) == {"policy": {"hidden": [1, 2]}}


@needs_yaml
@pytest.mark.parametrize("ending", ["yaml", "yml", "YAML"])
def test_yaml_as_training_scripts_dump_it(tmp_path: Path, ending: str) -> None:
    text = (
        "seed: 42\nclip_actions: null\nobs_groups: {}\n"
        "policy:\n  actor_hidden_dims: !!python/tuple\n  - 512\n  - 256\n  activation: elu\n"
        "algorithm:\n  learning_rate: 0.001\n"
    )
    assert read_runner_cfg(write(tmp_path, f"agent.{ending}", text)) == {
        "seed": 42,
        "clip_actions": None,
        "obs_groups": {},
        "policy": {"actor_hidden_dims": [512, 256], "activation": "elu"},
        "algorithm": {"learning_rate": 0.001},
    }


@needs_yaml
def test_yaml_runs_no_code(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = f"policy: !!python/object/apply:os.mkdir ['{made}']\n"
    with pytest.raises(InputError, match=r"python/object/apply:os\.mkdir"):
        read_runner_cfg(write(tmp_path, "agent.yaml", text))
    assert not made.exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("agent.json", "policy: {}", "expected JSON"),
        ("agent.json", "[1]", "expected a mapping in .*, got list"),
        pytest.param("agent.yaml", "a: [", "cannot be read as YAML", marks=needs_yaml),
        pytest.param("agent.yaml", "", "expected a mapping in .*, got NoneType", marks=needs_yaml),
        pytest.param("agent.yml", "- 1", "expected a mapping in .*, got list", marks=needs_yaml),
    ],
)
def test_what_is_no_config(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_runner_cfg(write(tmp_path, name, text))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(InputError, match="runner_cfg: cannot read "):
            read_runner_cfg(path)


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="pip install pyyaml, or give it as JSON"):
        read_runner_cfg(write(tmp_path, "agent.yaml", "{}"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("agent.json", "[" * 100_000),
        pytest.param("agent.yaml", "[" * 5000 + "]" * 5000, marks=needs_yaml),
    ],
)
def test_a_file_that_is_nested_too_deeply(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        read_runner_cfg(write(tmp_path, name, text))


GOOD = (
    "ActorCritic",
    "rsl_rl.models:MLPModel",
    "rsl_rl.modules.distribution.GaussianDistribution",
    "mjlab.rl:MjlabOnPolicyRunner",
    None,
    {},
)
BAD = (
    "__import__('os').system('true')",
    "exec",
    "ActorCritic()",
    "ActorCritic\n",
    "os:system",
    "subprocess.Popen",
    "rsl_rl.utils.utils:importlib.import_module",
    "rsl_rl.utils:Os.system",
    "rsl_rl_evil:Actor",
    "my_networks:Actor",
    3,
)


@pytest.mark.parametrize("name", GOOD)
def test_those_of_rsl_rl_and_mjlab_are_known(name: Any) -> None:
    check_class_names({"class_name": name, "actor": {"class_name": name, "hidden_dims": [1]}})


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "place", ["runner_cfg.actor.class_name", "runner_cfg.a[1].distribution_cfg.class_name"]
)
def test_others_are_refused_by_their_place(name: Any, place: str) -> None:
    inner = {"class_name": name}
    deep = {"a": [1, {"distribution_cfg": inner}]}
    with pytest.raises(InputError) as caught:
        check_class_names({"actor": inner} if "actor" in place else deep)
    assert str(caught.value).startswith(f"{place} names ")
    assert "trust_checkpoint=True" in str(caught.value)


def test_a_value_said_often_is_looked_at_once() -> None:
    """As YAML's aliases say it: written out, 2 ** 60 values."""
    value: Any = {"class_name": "os:system"}
    for _ in range(60):
        value = [value, value]
    with pytest.raises(InputError, match="class_name names os:system"):
        check_class_names({"a": value})


def test_levels_without_end() -> None:
    value: Any = {}
    value["a"] = value
    check_class_names(value)
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    with pytest.raises(InputError, match="at most 64 levels"):
        check_class_names({"a": deep})
