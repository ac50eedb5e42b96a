"""Names in checkpoints that were saved through torch's wrappers."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.adapters.rsl_rl.checkpoint import without_prefixes  # noqa: E402

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


def test_torchs_own_wrapper_says_these_names() -> None:
    """Compiling does nothing before the first call."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    wrapped = torch.compile(network, backend="eager").state_dict()
    assert set(wrapped) != set(network.state_dict())
    assert set(without_prefixes({"a_state_dict": wrapped})["a_state_dict"]) == set(
        network.state_dict()
    )
