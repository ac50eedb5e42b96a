"""Files as others write them, of identifiable values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryWriter
from mosaic_collect.store.schema import VALID_MASK
from tests import helpers
from tests.export import stores

NAMES = ("observations", "student_observations", "actions", "action_mean", "action_sigma")


def grid(steps: int = 11, num_envs: int = 4, masked: bool = True) -> dict[str, Any]:
    """The dict of MOSAIC's collector."""
    data: dict[str, Any] = helpers.expected(range(steps), num_envs, stores.STUDENT)
    if masked:
        masks = stores.some_masks(num_envs)
        data[VALID_MASK] = np.stack([masks(step) for step in range(steps)])
    data["metadata"] = {
        "num_trajectories": 3,
        "num_steps": int(data[VALID_MASK].sum()) if masked else steps * num_envs,
        "obs_dim_dict": {"observations": 3, "student_observations": 5},
        "action_dim": 2,
        "has_valid_mask": masked,
    }
    return data


def save(path: str, **changes: Any) -> dict[str, Any]:
    """A file of ``grid()`` with other values under some keys; None leaves a key out."""
    data = {k: v for k, v in {**grid(), **changes}.items() if v is not None}
    np.save(path, data)
    return data


@contextlib.contextmanager
def interrupted_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An import meets an interrupt in the step behind so many others."""
    add, left = TrajectoryWriter.add_step, [steps]

    def counted(self: TrajectoryWriter, **rows: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(self, **rows)

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryWriter, "add_step", counted)
        yield
