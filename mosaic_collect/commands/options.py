"""Command-line options of a dataclass of the library: its names, kinds, defaults and words.

    max_pairs: int | None = None      --max-pairs N
    fields: Sequence[str] | None      --fields NAME [NAME ...]
    skip_damaged: bool = False        --skip-damaged
    noise: bool = True                --no-noise
    task: str                         --task TASK, which must be given

What an option means is said once, in the docstring of the class or of the function that takes it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mosaic_collect.commands.shared import number_or_auto

T = TypeVar("T")


def add_options(
    parser: argparse._ActionsContainer,
    kind: Any,
    said_by: Any = None,
    but: Collection[str] = (),
    between: str = "-",
    **more: Mapping[str, Any],
) -> None:
    """Add an option for each field.

    Args:
        parser: Of the command, or a group of its arguments.
        kind: The dataclass.
        said_by: Whose docstring says what the fields mean; None: the class's.
        but: Fields that the command line does not offer.
        between: What stands between a name's words.
        **more: Per field, further arguments of ``add_argument``, such as ``choices``.
    """
    hints, words = get_type_hints(kind), meanings(said_by or kind)
    for field in fields(kind):
        if field.name not in but:
            given = {"help": words.get(field.name), **_kind(field, hints[field.name])}
            name = ("no_" if field.default is True else "") + field.name
            flag = "--" + name.replace("_", between)
            parser.add_argument(flag, dest=field.name, **{**given, **more.get(field.name, {})})


def chosen(kind: type[T], arguments: argparse.Namespace) -> T:
    """The dataclass with what was given on the command line; errors as its own."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in vars(arguments).items() if name in names})


def meanings(documented: Any) -> dict[str, str]:
    """Name -> what its docstring says of it, without the markup."""
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", text + "\n", re.M)
    entries = re.split(r"^    \**(\w+): ", section[1] if section else "", flags=re.M)[1:]
    told = (" ".join(entry.split()).replace("``", "") for entry in entries[1::2])
    plain = (text[:1].lower() + text[1:].removesuffix(".") for text in told)
    return {name: text.replace("%", "%%") for name, text in zip(entries[::2], plain, strict=True)}


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Name -> option, of all that are no positional arguments."""
    flags: dict[str, str] = {}
    for action in parser._actions:
        for flag in action.option_strings[-1:]:
            flags.setdefault(action.dest, flag)
    return flags


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library in the command line's words: ``--resume`` for ``resume=True``.

    Args:
        message: Such as ``max_pairs: expected ...; seed: expected ...``.
        flags: Name -> option.
    """
    for name, flag in flags.items():
        message = re.sub(rf"(?<![^\s(]){name}=True\b", flag, message)
        message = re.sub(rf"(?<![^\s(]){name}='(\w+)'", rf"{flag} \1", message)
    return re.sub(
        r"(?:^|(?<=; ))\w+(?:, \w+)*(?=: )",
        lambda names: ", ".join(flags.get(name, name) for name in names[0].split(", ")),
        message,
    )


def _kind(field: Field[Any], hint: Any) -> dict[str, Any]:
    """How ``argparse`` is to read a field's values."""
    if hint is bool:
        return {"action": "store_false" if field.default else "store_true"}
    given = {"required": True} if field.default is MISSING else {"default": field.default}
    kinds = [k for k in get_args(hint) if k is not NoneType] if _is_union(hint) else [hint]
    if get_origin(kinds[0]) in (tuple, Sequence):
        return {**given, "nargs": "+"}
    return {**given, "type": number_or_auto if kinds == [float, str] else kinds[0]}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)
