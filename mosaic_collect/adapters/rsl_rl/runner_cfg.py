"""A runner's training config as a store keeps it, and as files beside checkpoints have it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mosaic_collect.checks import lfs_pointer, local_path, needed
from mosaic_collect.errors import InputError
from mosaic_collect.text import reason, shown

_YAML = (".yaml", ".yml")
_TUPLE = "tag:yaml.org,2002:python/tuple"  # as training scripts dump tuples


def config_dict(runner_cfg: Any) -> dict[str, Any]:
    """A deep copy as a dict: runners take keys out of what they are given."""
    if isinstance(runner_cfg, Mapping):
        return copy.deepcopy(dict(runner_cfg))
    if callable(getattr(runner_cfg, "to_dict", None)):
        return copy.deepcopy(dict(runner_cfg.to_dict()))
    if dataclasses.is_dataclass(runner_cfg) and not isinstance(runner_cfg, type):
        return dataclasses.asdict(runner_cfg)
    raise InputError(
        f"runner_cfg: expected a dict or a config object, got {type(runner_cfg).__name__}"
    )


def json_safe(value: Any) -> Any:
    """A config as JSON values, such that a runner can be built of them again.

    Numbers and arrays of NumPy and torch become plain ones, classes and functions the text
    ``module:name`` that Isaac Lab and rsl_rl write for them. A field that was left MISSING becomes
    ``{}``, as Isaac Lab's ``to_dict`` has it. What else JSON cannot hold is kept by its words.
    """
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if value is dataclasses.MISSING:
        return {}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return value if value is None or isinstance(value, str) or is_number else str(value)


def read_runner_cfg(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training config, such as the ``params/agent.yaml`` beside Isaac Lab's checkpoints.

    Args:
        path: ``*.json``, or ``*.yaml`` or ``*.yml`` where PyYAML is installed. No tag of YAML is
            followed but that of Python's tuples, so reading runs no code.

    Raises:
        InputError: No such file, or not one mapping.
        MissingDependencyError: A YAML file, and no PyYAML.
    """
    path = local_path(path, "runner_cfg")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        words = f"cannot read {path}: {reason(error, path)}"
        raise InputError(f"runner_cfg: {words}") from error
    if words := lfs_pointer(text.encode()):
        raise InputError(f"runner_cfg: {path} is {words}")
    try:
        config = _yaml(path, text) if path.lower().endswith(_YAML) else json.loads(text)
    except RecursionError as error:
        raise InputError(f"runner_cfg: {path} is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"runner_cfg: expected JSON (or a *.yaml) in {path}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"runner_cfg: expected a mapping in {path}, got {type(config).__name__}")
    return config


def _yaml(path: str, text: str) -> Any:
    with needed(f"runner_cfg: reading {path} needs PyYAML: pip install pyyaml, or give it as JSON"):
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Safe, and knows tuples."""

    Loader.add_constructor(_TUPLE, lambda loader, node: loader.construct_sequence(node, deep=True))
    try:
        return yaml.load(text, Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise InputError(f"runner_cfg: {path} cannot be read as YAML: {words}") from error


_KEY = "class_name"
_MOST_LEVELS = 64
#: A class of rsl_rl by its name alone, or of it or mjlab by its full name.
_KNOWN = re.compile(r"([A-Z]\w*|(rsl_rl|mjlab)(\.[a-z]\w*)*[.:][A-Z]\w*)", re.ASCII)


def check_class_names(runner_cfg: Mapping[str, Any]) -> None:
    """Refuse a config that names other code than rsl_rl's and mjlab's, or is nested too deeply."""
    foreign = [
        f"{key} names {shown(name)}"
        for key, name in _class_names(runner_cfg)
        if name and not (isinstance(name, str) and _KNOWN.fullmatch(name))
    ]
    if foreign:
        raise InputError(
            f"{', '.join(foreign)}: expected a class of rsl_rl or mjlab; if you know and trust "
            "who made it, trust_checkpoint=True runs it all the same"
        )


def _class_names(runner_cfg: Any) -> Iterator[tuple[str, Any]]:
    """Keys and names, each value looked at once: a few lines of YAML can say one very often."""
    seen: set[int] = set()
    rest = [("runner_cfg", runner_cfg, 0)]
    while rest:
        key, value, depth = rest.pop()
        if key.endswith(f".{_KEY}"):
            yield key, value
        if not isinstance(value, (Mapping, list, tuple)) or id(value) in seen:
            continue
        if depth > _MOST_LEVELS:
            raise InputError(f"runner_cfg: expected at most {_MOST_LEVELS} levels, got more")
        seen.add(id(value))
        named = isinstance(value, Mapping)
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        rest += [(f"{key}.{k}" if named else f"{key}[{k}]", v, depth + 1) for k, v in pairs]
