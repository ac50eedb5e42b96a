"""Checkpoints of rsl_rl: read so that nothing in them runs, and recognised by their keys.

| family | top level | within |
| --- | --- | --- |
| 2.x | ``model_state_dict``, ``obs_norm_state_dict`` | ``actor.*``, ``std`` |
| 3.x | ``model_state_dict`` | ``actor_obs_normalizer.*``, ``actor.*``, ``std`` |
| 2.x or 3.x | ``model_state_dict`` | ``actor.*``, ``std``: without normalisers they are the same |
| 4.x | ``actor_state_dict`` | ``mlp.*``, ``std`` |
| 5.x | ``actor_state_dict`` | ``mlp.*``, ``distribution.*`` |

A checkpoint is a pickle, and a pickle is a program. torch has a reader that knows nothing but
tensors, numbers, texts and containers of them, which is all that rsl_rl's runners save. What
needs more is refused with the names that it would call, unless its reader trusts it.

Wrappers of torch put names before a network's own; the values are the network's all the same:

    torch.compile(actor)              _orig_mod.0.weight, or actor._orig_mod.0.weight
    DistributedDataParallel(actor)    module.0.weight
    both                              module._orig_mod.0.weight
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from mosaic_collect.checks import LFS_NBYTES, lfs_pointer, local_path
from mosaic_collect.collection.motions import file_sha256
from mosaic_collect.collection.student import is_torchscript
from mosaic_collect.errors import InputError
from mosaic_collect.text import shown

RSL2, RSL3, RSL23, RSL4, RSL5 = "2.x", "3.x", "2.x or 3.x", "4.x", "5.x"
_KEYS = {
    RSL2: "model_state_dict with obs_norm_state_dict beside it",
    RSL3: "model_state_dict with actor_obs_normalizer.* in it",
    RSL23: "model_state_dict with actor.* and no normaliser",
    RSL4: "actor_state_dict with mlp.* and std",
    RSL5: "actor_state_dict with mlp.* and distribution.*",
}
_MANY = 12  # keys that a message lists before it only counts
_COMPILED = "_orig_mod."  # unmistakable, so wherever it stands
_PARALLEL = "module."  # a network may have a part of that name, so only before all names
#: Variables that override what a caller of ``torch.load`` passes, in both directions.
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_ZIP = b"PK\x03\x04"
_TRUST = "if you know and trust who made it, trust_checkpoint=True reads it all the same"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, on the CPU.

    Attributes:
        path: Path of the file.
        content: Its top level; networks' own names, whatever torch wrapped them in.
        family: Generation of rsl_rl that wrote the file.
    """

    path: str
    content: dict[str, Any]
    family: str

    @classmethod
    def read(cls, path: str | os.PathLike[str], trust: bool = False) -> Checkpoint:
        """Read a file that a runner's ``save`` wrote; code in it runs only with ``trust``.

        Raises:
            InputError: No file there, or none that an rsl_rl runner wrote, or one that holds more
                than tensors and plain values; the message names what.
        """
        path = local_path(path, "checkpoint")
        if not os.path.isfile(path):
            raise InputError(f"checkpoint {path}: expected a file, found none")
        try:
            with open(path, "rb") as file:
                if words := lfs_pointer(file.read(LFS_NBYTES)):
                    raise InputError(f"checkpoint {path}: it is {words}")
                if not trust:
                    _check_archive(file, path)
                file.seek(0)
                content = torch.load(file, map_location="cpu", weights_only=not trust)
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, pickle.UnpicklingError) and not trust:
                words = f"checkpoint {path}: {_needs(error, path)}; {_TRUST}"
                raise InputError(words) from None
            raise InputError(f"checkpoint {path}: torch cannot read it: {error}") from error
        content = without_prefixes(content)
        return cls(path, content, _family(path, content))

    @contextlib.contextmanager
    def as_file(self) -> Iterator[str]:
        """A new file with the content, for rsl_rl's loaders: the old one may have changed."""
        with tempfile.TemporaryDirectory(prefix="mosaic-collect-") as folder:
            path = os.path.join(folder, os.path.basename(self.path))
            torch.save(self.content, path)
            yield path

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """One of its state dicts; empty if it has none of that name."""
        return dict(self.content.get(name) or {})

    def require(self, families: Sequence[str]) -> None:
        """Refuse a checkpoint of another family than these; the reader's own is first."""
        if self.family not in families:
            found = "; ".join(
                f"{key}: {listed(value)}" if isinstance(value, dict) else str(key)
                for key, value in self.content.items()
                if key.endswith("state_dict") and "optimizer" not in key
            )
            raise InputError(
                f"checkpoint {self.path} was written by rsl_rl {self.family} and does not load "
                f"into rsl_rl {families[0]}; found {found}; expected "
                + " or ".join(_KEYS[f] for f in families)
            )


def file_identity(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the absolute path of a checkpoint, and the hash that identifies it."""
    path = os.path.abspath(local_path(path, "checkpoint"))
    return {"path": path, "sha256": file_sha256(path)}


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


def without_prefixes(content: Any) -> Any:
    """A checkpoint's content with its networks' own names; itself if nothing was wrapped."""
    if not isinstance(content, dict):
        return content
    return {
        key: _unwrapped(value)
        if isinstance(key, str) and key.endswith("state_dict") and isinstance(value, Mapping)
        else value
        for key, value in content.items()
    }


def _unwrapped(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    if not all(isinstance(name, str) for name in state):
        return state
    names = {name: name.replace(_COMPILED, "") for name in state}
    while names and all(name.startswith(_PARALLEL) for name in names.values()):
        names = {name: own.removeprefix(_PARALLEL) for name, own in names.items()}
    if len({*names.values()}) < len(state):
        return state  # two of one name: which is the network's, nobody knows
    inner = {name: _unwrapped(v) if isinstance(v, Mapping) else v for name, v in state.items()}
    return {own: inner[name] for name, own in names.items()}


@contextlib.contextmanager
def weights_only(trust: bool) -> Iterator[None]:
    """Let every ``torch.load`` within run no code, whatever its caller passes.

    rsl_rl's loaders pass ``weights_only=False``, and networks of MOSAIC's read further files. One
    that needs more is an ``InputError``.
    """
    if trust:
        yield
        return
    before = {name: os.environ.get(name) for name in (_FORCE, _FORCE_NOT)}
    os.environ.update({_FORCE: "1", _FORCE_NOT: "0"})
    try:
        yield
    except pickle.UnpicklingError as error:
        raise InputError(f"a file that the policy reads: {_needs(error)}; {_TRUST}") from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_archive(file: BinaryIO, path: str) -> None:
    """Refuse what torch's reader of weights is not sound for.

    Those are the form before zip archives, which runs code up to torch 2.5, a program of
    TorchScript, and a claim of more bytes than there are.
    """
    file.seek(0)
    begin = file.read(len(_ZIP))
    if begin != _ZIP:
        raise InputError(
            f"checkpoint {path}: torch cannot read it without running code: expected the zip "
            f"archive that torch.save writes, got a file that begins with {begin!r}; {_TRUST}"
        )
    if is_torchscript(file):
        raise InputError(f"checkpoint {path}: expected tensors, got a program of TorchScript")
    with zipfile.ZipFile(file) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > file.seek(0, os.SEEK_END):
        raise InputError(f"checkpoint {path}: torch cannot read it: it claims more than its size")


def _needs(error: pickle.UnpicklingError, path: str | None = None) -> str:
    """Describe what torch's reader refused."""
    names = set(re.findall(r"GLOBAL (\S+)", str(error)))
    listing = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if listing is not None and path is not None:
        with contextlib.suppress(Exception):  # it stops at what it does not know
            names |= set(listing(path))
    if names:
        return f"holds more than tensors and numbers and names {shown(', '.join(sorted(names)))}"
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return f"holds more than tensors and numbers: {shown(told[0] if told else repr(error))}"
