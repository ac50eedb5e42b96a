"""Which rsl_rl wrote a checkpoint, told from its keys.

| family | top level | within |
| --- | --- | --- |
| 2.x | ``model_state_dict``, ``obs_norm_state_dict`` | ``actor.*``, ``std`` |
| 3.x | ``model_state_dict`` | ``actor_obs_normalizer.*``, ``actor.*``, ``std`` |
| 2.x or 3.x | ``model_state_dict`` | ``actor.*``, ``std``: without normalisers they are the same |
| 4.x | ``actor_state_dict`` | ``mlp.*``, ``std`` |
| 5.x | ``actor_state_dict`` | ``mlp.*``, ``distribution.*`` |
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mosaic_collect.adapters.rsl_rl.prefixes import without_prefixes
from mosaic_collect.adapters.rsl_rl.safe_load import load_weights
from mosaic_collect.checks import local_path
from mosaic_collect.errors import InputError

RSL2, RSL3, RSL23, RSL4, RSL5 = "2.x", "3.x", "2.x or 3.x", "4.x", "5.x"
_MANY = 12  # keys that a message lists before it only counts


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, on the CPU.

    Attributes:
        path: Where it was read.
        content: Its top level; networks' own names, whatever torch wrapped them in.
        family: Which rsl_rl generation wrote it.
    """

    path: str
    content: dict[str, Any]
    family: str

    @classmethod
    def read(cls, path: str | os.PathLike[str], trust: bool = False) -> Checkpoint:
        """Read a file that a runner's ``save`` wrote, such that no code in it runs.

        Args:
            path: The file.
            trust: Whether code in it may run, all the same.

        Raises:
            InputError: No file there, or none that an rsl_rl runner wrote, or one that holds more
                than tensors and plain values; the message names what.
        """
        path = local_path(path, "checkpoint")
        if not os.path.isfile(path):
            raise InputError(f"checkpoint {path}: expected a file, found none")
        content = without_prefixes(load_weights(path, trust))
        return cls(path, content, _family(path, content))

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """The path of a file that holds what was read, for loaders of rsl_rl, which open one.

        Not the file that was read: it may have been replaced since.
        """
        with tempfile.TemporaryDirectory(prefix="mosaic-collect-") as folder:
            path = os.path.join(folder, os.path.basename(self.path))
            torch.save(self.content, path)
            yield path

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """One of its state dicts; empty if it has none of that name."""
        return dict(self.content.get(name) or {})

    def require(self, families: Sequence[str]) -> None:
        """Refuse a checkpoint of another family than these, of which the reader's own is first.

        Raises:
            InputError: Naming the keys found and expected.
        """
        if self.family not in families:
            found = "; ".join(
                f"{key}: {listed(value)}" if isinstance(value, dict) else str(key)
                for key, value in self.content.items()
                if key.endswith("state_dict") and "optimizer" not in key
            )
            raise InputError(
                f"checkpoint {self.path} was written by rsl_rl {self.family} and does not load "
                f"into rsl_rl {families[0]}; found {found}; expected {_expected(families)}"
            )


def check_keys(path: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Hold a network's parameter names against a checkpoint's.

    Raises:
        InputError: They differ; the message lists both sides.
    """
    expected, found = set(expected), set(found)
    missing, extra = expected - found, found - expected
    if missing or extra:
        raise InputError(
            f"checkpoint {path} does not fit the configured actor: it lacks {listed(missing)} and "
            f"has {listed(extra)} besides; found {listed(found)}; expected {listed(expected)}"
        )


def listed(names: Iterable[str]) -> str:
    """Names in order, the first ones of many."""
    names = sorted(names)
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return (", ".join(names[:_MANY]) or "nothing") + more


def _family(path: str, content: Any) -> str:
    if isinstance(content, dict):
        if isinstance(content.get("actor_state_dict"), dict):
            keys = content["actor_state_dict"]
            return RSL4 if "std" in keys or "log_std" in keys else RSL5
        if isinstance(content.get("model_state_dict"), dict):
            if "obs_norm_state_dict" in content:
                return RSL2
            keys = content["model_state_dict"]
            return RSL3 if any("_obs_normalizer." in k for k in keys) else RSL23
    found = listed(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise InputError(
        f"checkpoint {path}: expected model_state_dict (rsl_rl 2.x, 3.x) or actor_state_dict "
        f"(4.x, 5.x) as an rsl_rl runner saves them, found {found}"
    )


def _expected(families: Sequence[str]) -> str:
    keys = {
        RSL2: "model_state_dict with obs_norm_state_dict beside it",
        RSL3: "model_state_dict with actor_obs_normalizer.* in it",
        RSL23: "model_state_dict with actor.* and no normaliser",
        RSL4: "actor_state_dict with mlp.* and std",
        RSL5: "actor_state_dict with mlp.* and distribution.*",
    }
    return " or ".join(keys[f] for f in families)
