"""Where a collection's data come from, as its store tells it and a resume must find it again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mosaic_collect.checks import local_path
from mosaic_collect.collection.motions import file_sha256
from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset


def file_identity(path: str | os.PathLike[str]) -> dict[str, str]:
    """A file's path, and the hash by which it is known."""
    path = os.path.abspath(local_path(path, "checkpoint"))
    return {"path": path, "sha256": file_sha256(path)}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a collection before its simulation is made; all of it JSON.

    Attributes:
        simulator: Its name.
        task: Name of the task, as registered in the simulator.
        checkpoint: ``file_identity`` of the policy's; its path may differ on resume.
        runner_cfg: The training config, of which the replay check builds the policy again.
        observations: How teacher and student see: noise, history, the student's task.
        limits: How much is recorded of each motion, by further names.
        acting: Result of ``acting_metadata``; empty: as trained.
        ranks: This process's number, and how many share the motions.
        notes: Further entries, by name; may differ on resume.
    """

    simulator: str
    task: str
    checkpoint: Mapping[str, str]
    runner_cfg: Mapping[str, Any]
    observations: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict)
    acting: Mapping[str, Any] = field(default_factory=dict)
    ranks: tuple[int, int] = (0, 1)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """Return the entries of a store's metadata."""
        return {
            **self.notes,
            **self._kept(),
            **({"acting": dict(self.acting)} if self.acting else {}),
            "checkpoint": dict(self.checkpoint),
            "runner_cfg": dict(self.runner_cfg),
        }

    def differences(self, told: Mapping[str, Any], allowed: Collection[str] = ()) -> list[str]:
        """Describe what a store's metadata have otherwise, but for entries that may differ."""
        now = {**self._kept(), "acting": self.acting, "checkpoint": self.checkpoint}
        before, now = _by_content({"acting": {}, **told}), _by_content(now)
        return [
            f"{name}: expected {before.get(name)!r}, got {value!r}"
            for name, value in now.items()
            if before.get(name) != value and name not in allowed
        ]

    def _kept(self) -> dict[str, Any]:
        """Entries that a resume must find the same, but for checkpoint and acting."""
        return {
            "simulator": self.simulator,
            "task": self.task,
            "observations": dict(self.observations),
            "ranks": list(self.ranks),
            **self.limits,
        }


def _by_content(entry: Any) -> Any:
    """The same, with a hash in the place of each ``file_identity``."""
    if not isinstance(entry, Mapping):
        return entry
    if set(entry) == {"path", "sha256"}:
        return entry["sha256"]
    return {name: _by_content(value) for name, value in entry.items()}


def refuse_changes(
    known: TrajectoryDataset | None,
    origin: Origin,
    allowed: Collection[str] | None = None,
) -> None:
    """Refuse to go on with a store of other settings; with ``allowed`` None none may differ."""
    if known is None or not known.num_envs:
        return
    changed = origin.differences(known.metadata, allowed or ())
    if changed:
        hint = "" if allowed is None else "; --allow-changed NAME goes on all the same"
        raise StoreMismatchError(
            f"{known.path} was collected otherwise: {'; '.join(changed)}{hint}"
        )
