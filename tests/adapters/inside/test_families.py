"""Checkpoints of other rsl_rl families, beside the installed one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mosaic_collect.adapters.rsl_rl.load import load_policy
from mosaic_collect.errors import InputError
from tests.adapters.inside.toy import GENERATION, ToyEnv, config

ACTOR = {"actor.0.weight": torch.zeros(16, 6), "actor.0.bias": torch.zeros(16)}
MODEL = {"mlp.0.weight": torch.zeros(16, 6), "mlp.0.bias": torch.zeros(16)}
STD = torch.ones(3)
OTHERS: dict[str, dict[str, Any]] = {
    "2.x": {"model_state_dict": {**ACTOR, "std": STD}, "obs_norm_state_dict": {"_mean": STD}},
    "3.x": {"model_state_dict": {**ACTOR, "std": STD, "actor_obs_normalizer._mean": STD}},
    "2.x or 3.x": {"model_state_dict": {**ACTOR, "std": STD}},
    "4.x": {"actor_state_dict": {**MODEL, "std": STD}, "critic_state_dict": {}},
    "5.x": {"actor_state_dict": {**MODEL, "distribution.std_param": STD}, "critic_state_dict": {}},
}
OWN = {2: ("2.x", "2.x or 3.x"), 3: ("3.x", "2.x or 3.x")}


def own() -> tuple[str, ...]:
    import importlib.util

    has_distribution = importlib.util.find_spec("rsl_rl.modules.distribution") is not None
    return OWN.get(GENERATION) or (("5.x",) if has_distribution else ("4.x",))


@pytest.mark.parametrize("family", OTHERS)
def test_another_family_is_refused_by_name(family: str, checkpoint: str) -> None:
    if family in own():
        pytest.skip("the installed family")
    torch.save({**OTHERS[family], "iter": 1, "infos": None}, checkpoint)
    with pytest.raises(InputError) as caught:
        load_policy(ToyEnv(), config(), checkpoint)
    message = str(caught.value)
    assert f"was written by rsl_rl {family}" in message
    found, expected = message.split("; expected ")
    assert ("actor.0.bias" if "model_state_dict" in OTHERS[family] else "mlp.0.bias") in found
    assert "_state_dict with" in expected


def test_another_family_is_told_before_a_runner_is_built(checkpoint: str) -> None:
    """Its training config does not fit either, but that would be only half of the news."""
    family = next(f for f in OTHERS if f not in own())
    torch.save({**OTHERS[family], "iter": 1, "infos": None}, checkpoint)
    env = ToyEnv()
    with pytest.raises(InputError, match=f"was written by rsl_rl {family}"):
        load_policy(env, {}, checkpoint)
    assert env.asked == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": 1}, "found weights"),
        ([1, 2], "found list"),
        ({}, "found nothing"),
    ],
)
def test_what_no_runner_wrote_is_refused(content: Any, words: str, checkpoint: str) -> None:
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match=words):
        load_policy(ToyEnv(), config(), checkpoint)


def test_no_file_and_no_checkpoint(checkpoint: str) -> None:
    with pytest.raises(InputError, match="expected a file, found none"):
        load_policy(ToyEnv(), config(), checkpoint)
    with open(checkpoint, "wb") as file:
        file.write(b"not a checkpoint")
    with pytest.raises(InputError, match="torch cannot read it"):
        load_policy(ToyEnv(), config(), checkpoint)
