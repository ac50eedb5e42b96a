"""Names that wrappers of torch put before a network's own, in what they save.

    torch.compile(actor)              _orig_mod.0.weight, or actor._orig_mod.0.weight
    DistributedDataParallel(actor)    module.0.weight
    both                              module._orig_mod.0.weight

The values are the network's, whatever it was wrapped in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COMPILED = "_orig_mod."  # unmistakable, so wherever it stands
_PARALLEL = "module."  # a network may have a part of that name, so only before all names
_STATES = "state_dict"


def without_prefixes(content: Any) -> Any:
    """A checkpoint's content with its networks' own names; itself if nothing was wrapped.

    Optimisers know parameters by number, so theirs stay as they are.
    """
    if not isinstance(content, dict):
        return content
    return {
        key: _unwrapped(value)
        if isinstance(key, str) and key.endswith(_STATES) and isinstance(value, Mapping)
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
