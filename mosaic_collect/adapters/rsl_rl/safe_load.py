"""Reading what torch saved so that nothing in it runs, whoever made it.

A checkpoint is a pickle, and a pickle is a program. torch has a reader that knows nothing but
tensors, numbers, texts and containers of them, which is all that rsl_rl's runners save. What
needs more is refused with the names that it would call, unless its reader trusts it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from mosaic_collect.checks import LFS_NBYTES, lfs_pointer
from mosaic_collect.errors import InputError
from mosaic_collect.text import shown

#: How torch is told what its callers do not say, and what would contradict it.
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_ZIP = b"PK\x03\x04"
_TRUST = "if you know and trust who made it, trust_checkpoint=True reads it all the same"


def load_weights(path: str, trust: bool) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Args:
        path: The file.
        trust: Whether code in it may run.

    Raises:
        InputError: It cannot be read, or not without running code; the message names which.
    """
    try:
        with open(path, "rb") as file:
            if words := lfs_pointer(file.read(LFS_NBYTES)):
                raise InputError(f"checkpoint {path}: it is {words}")
            file.seek(0)
            if trust:
                return torch.load(file, map_location="cpu", weights_only=False)
            _check_archive(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if trust:
            raise InputError(f"checkpoint {path}: torch cannot read it: {error}") from error
        raise InputError(f"checkpoint {path}: {_needs(error, path)}; {_TRUST}") from None
    except Exception as error:
        raise InputError(f"checkpoint {path}: torch cannot read it: {error}") from error


@contextlib.contextmanager
def weights_only(trust: bool) -> Iterator[None]:
    """Within, every ``torch.load`` runs no code, whatever it was asked for.

    rsl_rl's loaders ask for all, and networks of MOSAIC's read checkpoints that a config names.

    Raises:
        InputError: One of those needs more.
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
    """Leave to torch only what its reader of weights is sound for.

    Raises:
        InputError: An older form, whose reading ran code up to torch 2.5; a program of
            TorchScript; or a claim of more bytes than there are.
    """
    begin = file.read(len(_ZIP))
    if begin != _ZIP:
        raise InputError(
            f"checkpoint {path}: torch cannot read it without running code: expected the zip "
            f"archive that torch.save writes, got a file that begins with {begin!r}; {_TRUST}"
        )
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(os.path.basename(entry.filename) == "constants.pkl" for entry in entries):
        raise InputError(f"checkpoint {path}: expected tensors, got a program of TorchScript")
    size = file.seek(0, os.SEEK_END)
    if sum(entry.file_size for entry in entries) > size:
        raise InputError(f"checkpoint {path}: torch cannot read it: it claims more than its size")
    file.seek(0)


def _needs(error: pickle.UnpicklingError, path: str | None = None) -> str:
    """What torch's reader would not take, in words."""
    names = set(re.findall(r"GLOBAL (\S+)", str(error)))
    listing = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if listing is not None and path is not None:
        with contextlib.suppress(Exception):  # it stops at what it does not know
            names |= set(listing(path))
    if names:
        return f"holds more than tensors and numbers and names {shown(', '.join(sorted(names)))}"
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return f"holds more than tensors and numbers: {shown(told[0] if told else repr(error))}"
