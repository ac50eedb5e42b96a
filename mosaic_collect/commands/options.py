"""Generate a command's options from a dataclass: names, types, defaults and help texts.

    max_pairs: int | None = None            --max-pairs N
    fields: Sequence[str] | None = None     --fields NAME [NAME ...]
    layout: Literal["auto", "grid"]         --layout {auto,grid}
    skip_damaged: bool = False              --skip-damaged
    noise: bool = True                      --noise, --no-noise
    task: str                               --task TASK, required
    options: ExportOptions                  the options of that dataclass

The help of an option is its entry in the docstring of the class, or of the function that takes it.
``shown`` adds what a dataclass cannot express: metavars, positional arguments, short flags.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import shlex
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import takewhile
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints as type_hints,
)

_T = TypeVar("_T")
_META = "command_line"
BAD_USAGE = 2


def shown(**how: Any) -> dict[str, Any]:
    """Metadata of a dataclass field: how the command line shows it.

    Args:
        **how: Arguments of ``add_argument`` such as ``metavar``; or ``positional=True``,
            ``flags=("-o",)`` before the long one, ``exclusive="name"`` of a group of which one may
            be given, ``add=function`` that adds the option itself; of a nested dataclass
            ``described_by=function`` and ``but=("name",)``.
    """
    return {_META: how}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the command line.

    Attributes:
        verbose: Log what happens, and print the tracebacks of errors.
    """

    #: A command line that works.
    EXAMPLE: ClassVar[str] = ""
    #: Title -> fields. Other options come first, without a title.
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {}

    verbose: bool = False

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Add the command's options to its parser."""
        add_options(parser, cls, groups=cls.GROUPS)

    @classmethod
    def parsed(cls: type[_T], namespace: argparse.Namespace) -> _T:
        """Build the command from parsed arguments; the library may refuse their values."""
        return build(cls, namespace)

    def run(self) -> bool:
        """Do it and print the answer; False if the answer is no."""
        raise NotImplementedError


def parser_of(name: str, kind: type[Command]) -> CommandParser:
    """The parser of one command."""
    parser = CommandParser(
        prog=f"mosaic-collect {name}",
        description=" ".join(summary_of(kind)).strip(),
        epilog=f"example:\n{wrapped(kind.EXAMPLE, '  ', 78)}\n",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    kind.add_to(parser)
    parser.usage = _usage(parser)
    return parser


def summary_of(documented: Any) -> tuple[str, str]:
    """The first line of a docstring, and the text between it and the first section."""
    summary, *paragraphs = (inspect.getdoc(documented) or "").split("\n\n")
    text = takewhile(lambda paragraph: not re.match(r"\w+:\n", paragraph), paragraphs)
    return _plain(summary), _plain(" ".join(text))


def add_options(
    parser: argparse._ActionsContainer,
    kind: Any,
    *,
    described_by: Any = None,
    only: Collection[str] | None = None,
    but: Collection[str] = (),
    between: str = "-",
    groups: Mapping[str, Collection[str]] | None = None,
    optional: bool = False,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add an option for each field of a dataclass, or for those in ``only``, ``but`` some.

    Args:
        parser: Parser of the command, or a group of it.
        kind: The dataclass.
        described_by: Function or class whose docstring describes the fields; None: the dataclass.
        only: Fields to add; None: all.
        but: Fields to leave out.
        between: Separator of the words of a name.
        groups: Title of a group -> its fields; other fields stay outside.
        optional: Require no option, and leave options that were not given out of the namespace.
        more: Field -> what ``shown`` takes, beside the field's own.
    """
    hints, words = type_hints(kind), meanings(described_by or kind)
    title_of = {name: title for title, names in (groups or {}).items() for name in names}
    order = list(title_of)
    exclusive: dict[str, argparse._ActionsContainer] = {}
    own = getattr(kind, "__annotations__", {})
    for field in sorted(
        fields(kind),
        key=lambda f: (order.index(f.name) if f.name in title_of else -1, f.name not in own),
    ):
        if field.name in but or not (only is None or field.name in only):
            continue
        how = {**field.metadata.get(_META, {}), **(more or {}).get(field.name, {})}
        container = _group(parser, title_of.get(field.name, ""))
        if key := how.pop("exclusive", None):
            if key not in exclusive:
                exclusive[key] = container.add_mutually_exclusive_group()
            container = exclusive[key]
        if is_dataclass(hints[field.name]):
            add_options(container, hints[field.name], between=between, optional=optional, **how)
            continue
        option = {**_type_arguments(hints[field.name], field), **how}
        if option.get("choices") and "metavar" not in how:
            option.pop("metavar", None)
        option["help"] = _help(field, words.get(field.name, ""), between, kind)
        if optional:
            option["default"] = argparse.SUPPRESS
            option.pop("required", None)
        _add(container, field.name, between, option)


def _group(parser: argparse._ActionsContainer, title: str) -> argparse._ActionsContainer:
    """The group of that title, which is made if there is none; no title: the parser."""
    groups = {group.title: group for group in parser._action_groups}
    return groups.get(title) or parser.add_argument_group(title) if title else parser


def words_of(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> list[str]:
    """The command line that gives these values to the options of a parser."""
    words = []
    for action in parser._actions:
        value, flag = values.get(action.dest), (action.option_strings or [""])[-1]
        if action.dest not in values or value is None or not flag:
            continue
        if isinstance(action, _Switch):
            words.append(action.option_strings[-1 if value is False else -2])
        elif action.nargs == 0:
            words += [flag] if value == getattr(action, "const", True) else []
        else:
            several = [value] if isinstance(value, (str, int, float)) else value
            texts = [str(one) for one in several]
            dashed = len(texts) == 1 and texts[0].startswith("-")
            words += [f"{flag}={texts[0]}"] if dashed else [flag, *texts]
    return words


def _add(
    container: argparse._ActionsContainer, name: str, between: str, option: dict[str, Any]
) -> None:
    add, flags = option.pop("add", None), option.pop("flags", ())
    if add is not None:
        add(container, option["help"], option["default"])
    elif option.pop("positional", False):
        for key in ("required", *(["default"] if option.get("nargs") != "?" else [])):
            option.pop(key, None)
        container.add_argument(name, **option)
    else:
        flag = "--" + option.pop("name", name).replace("_", between)
        container.add_argument(*flags, flag, dest=name, **option)


def build(kind: type[_T], namespace: argparse.Namespace) -> _T:
    """A dataclass of the values in a namespace; errors are the dataclass's own."""
    values, hints = vars(namespace), type_hints(kind)
    given = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(hints[field.name]):
            given[field.name] = build(hints[field.name], namespace)
        elif field.name in values:
            given[field.name] = values[field.name]
    return kind(**given)


def meanings(documented: Any) -> dict[str, str]:
    """Name -> its entry in a docstring, without markup; entries of base classes come in, too."""
    found: dict[str, str] = {}
    bases = reversed(documented.__mro__) if inspect.isclass(documented) else [documented]
    for one in bases:
        text = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", text + "\n", re.M)
        entries = re.split(r"^    \**(\w+(?:, \w+)*): ", section[1] if section else "", flags=re.M)[
            1:
        ]
        for names, entry in zip(entries[::2], entries[1::2], strict=True):
            found |= dict.fromkeys(names.split(", "), " ".join(entry.split()))
    return found


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Name -> option, of all that are no positional arguments."""
    flags: dict[str, str] = {}
    for action in parser._actions:
        for flag in action.option_strings[-1:]:
            flags.setdefault(action.dest, flag)
    return flags


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library in the command line's words: ``--resume`` for ``resume=True``."""
    for name, flag in flags.items():
        message = re.sub(rf"(?<![^\s(]){name}=True\b", flag, message)
        message = re.sub(rf"(?<![^\s(]){name}='(\w+)'", rf"{flag} \1", message)
    return re.sub(
        r"(?:^|(?<=; ))\w+(?:, \w+)*(?=: )",
        lambda names: ", ".join(flags.get(name, name) for name in names[0].split(", ")),
        message,
    )


def closest(word: str, choices: Collection[str]) -> str:
    """``; did you mean X?`` of the choice that is spelled like the word; empty if none is."""
    begun = sorted(choice for choice in choices if len(word) > 3 and choice.startswith(word))
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.6) or begun
    return f"; did you mean {found[0]}?" if found else ""


class CommandParser(argparse.ArgumentParser):
    """A parser that reports an error in one line and takes ``--num_envs`` for ``--num-envs``."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ``argparse`` does; unknown options come before missing ones."""
        words = self._hyphenated(sys.argv[1:] if args is None else args)
        parsed, left = self.parse_known_args(words, namespace)
        if left:
            self.error(f"unexpected argument{'s' * (len(left) > 1)} {shlex.join(left)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with one line: usages may have forty."""
        words = message.removeprefix("argument ")
        self.exit(BAD_USAGE, f"{self.prog}: {words} (see {self.prog} --help)\n")

    def _hyphenated(self, words: Sequence[str]) -> list[str]:
        """Write options with hyphens, and texts behind a list of numbers before its option.

        So ``--trajectory 3 run.zarr`` has one number and one store.
        """
        options = self._option_string_actions
        found: list[str] = []
        numbers_at = None
        for i, word in enumerate(words):
            if word == "--":
                return [*found, *words[i:]]
            name, equals, value = word.partition("=")
            if name.startswith("--") and " " not in name and name not in options:
                hyphenated = name.replace("_", "-")
                if hyphenated not in options:
                    self.error(f"unknown option {name}{closest(hyphenated, options)}")
                name, word = hyphenated, hyphenated + equals + value
            if name in options:
                is_list = options[name].nargs == "+" and options[name].type is int
                numbers_at = len(found) if is_list and not equals else None
            elif numbers_at is not None and len(found) > numbers_at + 1 and not _is_whole(word):
                found.insert(numbers_at, word)
                numbers_at += 1
                continue
            found.append(word)
        return found


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


class _Switch(argparse.Action):
    """``--noise`` and ``--no-noise``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        between = "_" if "_" in option_strings[-1] else "-"
        no = [f"--no{between}{flag[2:]}" for flag in option_strings]
        super().__init__([*option_strings, *no], dest, nargs=0, **more)

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        setattr(namespace, self.dest, not str(flag).startswith(("--no-", "--no_")))


class HelpFormatter(argparse.HelpFormatter):
    """Wrap texts to the terminal; lines that begin with two spaces are kept as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n  " in text:
            return text
        return textwrap.fill(" ".join(text.split()), width)


def wrapped(command: str, indent: str, width: int) -> str:
    """A command line in several lines, broken before options."""
    lines = [indent]
    for part in re.split(r" (?=-)", command):
        if len(lines[-1]) + len(part) > width - 2 and lines[-1].strip():
            lines[-1] += "\\"
            lines.append(indent + "    ")
        lines[-1] += part + " "
    return "\n".join(lines).rstrip()


def _usage(parser: argparse.ArgumentParser) -> str:
    """One line: the positional arguments and the required options."""
    words = [parser.prog, "[OPTION ...]"]
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        metavar = str(action.metavar or action.dest.upper())
        if action.option_strings:
            words += [f"{action.option_strings[-1]} {metavar}"] if action.required else []
        elif action.nargs == "?":
            words.append(f"[{metavar}]")
        else:
            words.append(f"{metavar} [{metavar} ...]" if action.nargs == "+" else metavar)
    return " ".join(words).replace("%", "%%")


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _help(field: Field[Any], entry: str, between: str, kind: Any) -> str:
    """The entry as a phrase in the words of the command line, and the default behind it."""
    entry, *nothing = re.split(r"[;.,] None: |\. None means ", entry.removesuffix("."), maxsplit=1)
    default = nothing[0] if nothing else _default(field)
    names = {f.name for f in fields(kind)}
    words = [
        re.sub(
            r"``(\w+)``",
            lambda name: "--" + name[1].replace("_", between) if name[1] in names else name[1],
            text,
        )
        for text in (entry, default)
    ]
    entry, default = (_plain(text).replace("%", "%%") for text in words)
    lower = entry[:1].lower() + entry[1:] if entry[1:2].islower() else entry
    return lower + (f" (default: {default})" if default and "default" not in entry else "")


def _default(field: Field[Any]) -> str:
    value = field.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is MISSING:
        return ""
    if value is None or value == ():
        return "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return format(value, {int: ",", float: "g"}.get(type(value), ""))


def _type_arguments(hint: Any, field: Field[Any]) -> dict[str, Any]:
    """Arguments of ``add_argument`` for a field's type."""
    if hint is bool:
        if field.default:
            return {"action": _Switch, "default": True}
        return {"action": "store_true", "default": False}
    given: dict[str, Any] = {"default": field.default}
    if field.default is MISSING:
        given = {"default": None, "required": True}
    # The last word of a name is what its value is: MB of buffer_mb, MODULE of tasks_module.
    given["metavar"] = field.name.rpartition("_")[2].upper()
    kinds = [kind for kind in _members(hint) if kind is not NoneType]
    if get_origin(kinds[0]) in (tuple, list, Sequence):
        given["metavar"] = given["metavar"].removesuffix("S")
        return {**given, "nargs": "+", **_one(_members(get_args(kinds[0])[0]))}
    return {**given, **_one(kinds)}


def _one(kinds: Sequence[Any]) -> dict[str, Any]:
    """Type of a single value, its choices, and N for a whole number."""
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    plain = [kind for kind in kinds if get_origin(kind) is not Literal]
    if not plain:
        return {"choices": tuple(literals)}
    if float in plain and (literals or str in plain):
        return {"type": number_or_text}
    return {"type": int, "metavar": "N"} if plain[0] is int else {"type": plain[0]}


def _members(hint: Any) -> list[Any]:
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]


def number_or_text(text: str) -> float | str:
    """A number where the text is one; the library refuses other texts."""
    try:
        return float(text)
    except ValueError:
        return text
