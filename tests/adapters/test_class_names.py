"""Names of code in a training config that came with a store or a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from mosaic_collect.adapters.rsl_rl.runner_cfg import check_class_names
from mosaic_collect.errors import InputError

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
