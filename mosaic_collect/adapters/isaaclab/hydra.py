"""What Hydra and presets say to overrides that a task does not take."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mosaic_collect.errors import InputError

_log = logging.getLogger(__name__)


@contextmanager
def refused_by_hydra(overrides: Sequence[str]) -> Iterator[None]:
    """Its words as an error of ours: it prints some of them, and ends the process.

    Raises:
        InputError: Hydra or Isaac Lab's presets refuse the overrides.
    """
    told = " ".join(overrides)
    try:
        yield
    except SystemExit as error:
        raise InputError(f"overrides: Hydra does not take {told}; it has said above why") from error
    except (ValueError, AttributeError, KeyError) as error:
        if not overrides:  # the task's own fault
            raise
        raise InputError(f"overrides: {told} cannot be applied: {error}") from error


def warn_of_new_fields(configs: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Say which overrides set what the config's class does not have, a misspelt field for one.

    Isaac Lab 3 sets attributes, and asks nobody.

    Args:
        configs: ``env`` and ``agent``, with the overrides applied.
        overrides: As they were given.
    """
    for path in (text.split("=", 1)[0] for text in overrides if "=" in text):
        first, *between = path.split(".")
        owner = configs.get(first)
        for name in between[:-1]:
            owner = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
        fields = getattr(owner, "__dataclass_fields__", None)
        if between and fields and between[-1] not in fields:
            kind = type(owner).__name__
            _log.warning("overrides: %s: %s has no field %s", path, kind, between[-1])
