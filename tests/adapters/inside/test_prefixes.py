"""Checkpoints whose networks torch had wrapped answer as those that it had not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mosaic_collect.adapters.rsl_rl.load import load_policy
from tests.adapters.inside.test_policy import observe
from tests.adapters.inside.toy import ToyEnv, config


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_wrapped_checkpoint_gives_the_same_values(
    trained: Any, checkpoint: str, prefix: str
) -> None:
    _, path, recurrent = trained
    content = torch.load(path, weights_only=True)
    for name, state in content.items():
        if name.endswith("state_dict") and "optimizer" not in name:
            content[name] = {f"{prefix}{key}": value for key, value in state.items()}
    torch.save(content, checkpoint)
    observations = observe(ToyEnv())
    plain, wrapped = (
        load_policy(ToyEnv(), config(recurrent), p).act(observations) for p in (path, checkpoint)
    )
    assert torch.equal(plain.mean, wrapped.mean)
    assert torch.equal(plain.sigma, wrapped.sigma)
