"""Compare the provenance of stores before they are joined.

Fields of the same names and widths may have columns of other meanings in two stores: observation
groups in another order, another task, another history. Only the metadata show it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.text import shown

#: Metadata entries that decide the meaning of columns.
ALIKE = ("simulator", "task", "robot", "groups", "terms", "observations")
_GROUPS, _TERMS, _OBSERVATIONS, _CHECKPOINT = "groups", "terms", "observations", "checkpoint"
#: Stores' metadata by their paths.
Told: TypeAlias = Mapping[str, Mapping[str, Any]]


def check_alike(stores: Told, fields: Collection[str], allowed: Collection[str] = ()) -> None:
    """Refuse stores whose columns may have other meanings; a missing entry is no difference.

    The columns of other fields may differ, and so may the allowed entries of ``ALIKE``.
    """
    found = [
        f"{words}, unless allow_different='{name}'"
        for name, words in _differences({path: _of(told, fields) for path, told in stores.items()})
        if name not in allowed
    ]
    if found:
        raise StoreMismatchError(
            "stores of one export must be of the same origin, or columns of one name mean other "
            f"things: {'; '.join(found)}"
        )


def alike_notes(stores: Told) -> Iterator[str]:
    """Yield sentences on differences between stores that were joined."""
    for name, words in _differences(stores):
        yield f"the stores differ in {name}, which was allowed: {words}"
    for name in ALIKE:
        silent = [path for path, told in stores.items() if told.get(name) is None]
        if 0 < len(silent) < len(stores):
            yield f"not all stores say their {name}: {', '.join(silent)} may be of another"
    checkpoints = {path: _hash(told) for path, told in stores.items() if _hash(told) is not None}
    if len({*checkpoints.values()}) > 1:
        yield f"the stores are of {len({*checkpoints.values()})} checkpoints"


def _of(told: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Metadata on these fields; ``groups`` are the columns of ``observations``."""
    terms = told.get(_TERMS)
    if isinstance(terms, Mapping):
        terms = {field: of for field, of in terms.items() if field in fields}
    groups = told.get(_GROUPS) if _OBSERVATIONS in fields else None
    return {**told, _GROUPS: groups, _TERMS: terms}


def _differences(stores: Told) -> Iterator[tuple[str, str]]:
    """Yield each differing entry, with the values of the first store and the first other one."""
    for name in ALIKE:
        said = {path: told[name] for path, told in stores.items() if told.get(name) is not None}
        if not said:
            continue
        first, *others = said
        for other in others:
            if _ordered(said[first]) != _ordered(said[other]):
                mine, theirs = _apart(said[first], said[other])
                yield name, f"{name}: {first} says {_words(mine)}, {other} says {_words(theirs)}"
                break


def _ordered(value: Any) -> Any:
    """The order of groups is the order of columns."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _apart(mine: Any, theirs: Any) -> tuple[Any, Any]:
    """Without the entries that both have; with all of them if only their order differs."""
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping) or mine == theirs:
        return mine, theirs
    absent = object()
    left = {k: v for k, v in mine.items() if theirs.get(k, absent) != v}
    return left, {k: v for k, v in theirs.items() if mine.get(k, absent) != v}


def _words(value: Any) -> str:
    """A value as text, entries in their order, which a bounded ``repr`` does not keep."""
    if not isinstance(value, Mapping):
        return shown(value)
    return shown(", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) or "nothing")


def _hash(told: Mapping[str, Any]) -> Any:
    file = told.get(_CHECKPOINT)
    return str(file.get("sha256")) if isinstance(file, Mapping) else None
