"""What MOSAIC's fork of rsl_rl does for training only, a collection asks it not to do."""

from __future__ import annotations

from typing import Any

import pytest

from mosaic_collect.adapters.rsl_rl import load
from mosaic_collect.adapters.rsl_rl.checkpoint import RSL2, Checkpoint


class BuiltError(Exception):
    """The runner would be made now."""


def test_no_expert_file_is_loaded_and_no_sigma_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_runner(env: Any, config: dict[str, Any], *_: Any) -> Any:
        raise BuiltError(config)

    monkeypatch.setattr(load, "generation", load.RslRl2)
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
