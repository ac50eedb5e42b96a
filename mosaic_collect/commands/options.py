"""Generate a command's options from the signature of its function.

    max_pairs: int | None = None            --max-pairs N
    fields: Sequence[str] | None = None     --fields NAME [NAME ...]
    layout: Literal["auto", "grid"]         --layout {auto,grid}
    skip_damaged: bool = False              --skip-damaged
    noise: bool = True                      --noise, --no-noise
    task: Annotated[str, ARGUMENT]          TASK, a positional argument
    **more: Annotated[Any, {"of": f}]       the options of the function or dataclass f

The help of an option is its entry in the docstring. ``Annotated`` adds what a type cannot express:
a dict of arguments of ``add_argument``, such as ``metavar``, or of

    positional, flags    an argument without a flag; short flags before the long one
    name, group          another name for the flag; title of its group in the help
    exclusive            name of a set of options of which one may be given
    add                  function that adds the option itself
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

BAD_USAGE = 2
ARGUMENT = {"positional": True}


def parser_of(name: str, run: Callable[..., Any]) -> CommandParser:
    """The parser of one command."""
    width = max(shutil.get_terminal_size().columns - 2, 11)  # as argparse has it
    parser = CommandParser(
        prog=f"mosaic-collect {name}",
        description=textwrap.fill(" ".join(summary_of(run)), width),
        epilog=f"example:\n{wrapped(example_of(run), '  ', 78)}\n",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    add_options(parser, run)
    verbose = "log what happens, and print the tracebacks of errors (default: no)"
    parser.add_argument("--verbose", action="store_true", help=verbose, default=argparse.SUPPRESS)
    parser.usage = _usage(parser)
    return parser


def summary_of(documented: Any) -> tuple[str, str]:
    """The first line of a docstring, and the text between it and the first section."""
    summary, *paragraphs = (inspect.getdoc(documented) or "").split("\n\n")
    text = takewhile(lambda paragraph: not re.match(r"\w+:\n", paragraph), paragraphs)
    return _plain(summary), _plain(" ".join(text))


def example_of(documented: Any) -> str:
    """The command line in a docstring's section ``Example``."""
    return " ".join(_section(documented, "Example").split())


def add_options(
    container: argparse._ActionsContainer,
    of: Callable[..., Any],
    *,
    but: Collection[str] = (),
    between: str = "-",
    group: str = "",
    groups: Mapping[str, Collection[str]] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add an option for each parameter of a function or dataclass.

    Options that are not given are left out of the namespace.

    Args:
        container: Parser of the command.
        of: The function or dataclass.
        but: Parameters to leave out.
        between: Separator of the words of a name.
        group: Title of the group of parameters that ``groups`` does not name; empty: none.
        groups: Title of a group -> its parameters, in this order before the others.
        more: Parameter -> what ``Annotated`` may add, beside its own.
    """
    parameters, hints, words = inspect.signature(of).parameters, _hints(of), meanings(of)
    title_of = {name: title for title, names in (groups or {}).items() for name in names}
    order, exclusive = list(title_of), dict[str, argparse._ActionsContainer]()
    for name in sorted(parameters, key=lambda n: order.index(n) if n in order else len(order)):
        hint, *added = _unpacked(hints[name])
        if name in but:
            continue
        if parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            for how in added:
                add_options(container, between=between, **how)
            continue
        default, how = parameters[name].default, {"group": title_of.get(name, group)}
        for addition in (*added, (more or {}).get(name, {})):
            how |= addition
        within = _group(container, how.pop("group"))
        if key := how.pop("exclusive", None):
            within = exclusive[key] = exclusive.get(key) or within.add_mutually_exclusive_group()
        entry = words.get(name, how.get("help", ""))
        how["help"] = _help(entry, default, parameters, between)
        _add(within, name, between, {**_type_arguments(name, hint, default), **how})


def _hints(of: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type; of a dataclass's, some may be written in other modules."""
    if inspect.isclass(of):
        return get_type_hints(of, include_extras=True)
    return inspect.get_annotations(of, eval_str=True)


def _unpacked(hint: Any) -> tuple[Any, ...]:
    """A type, and the dicts that ``Annotated`` adds to it."""
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _group(container: argparse._ActionsContainer, title: str) -> argparse._ActionsContainer:
    """The group of that title, which is made if there is none; no title: the container."""
    groups = {group.title: group for group in container._action_groups}
    return groups.get(title) or container.add_argument_group(title) if title else container


def _add(
    group: argparse._ActionsContainer, name: str, between: str, option: dict[str, Any]
) -> None:
    """Add one option, which is left out of the namespace if it is not given."""
    flags = [*option.pop("flags", ()), "--" + option.pop("name", name).replace("_", between)]
    if add := option.pop("add", None):
        add(group, option["help"])
    elif option.pop("positional", False):
        group.add_argument(name, **option)
    else:
        group.add_argument(*flags, dest=name, default=argparse.SUPPRESS, **option)


def words_of(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> list[str]:
    """The command line that gives these values to the options of a parser."""
    words = []
    for action in parser._actions:
        value = values.get(action.dest)
        if value is None or not action.option_strings:
            continue
        flag = action.option_strings[-1]
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


def meanings(documented: Any) -> dict[str, str]:
    """Name -> its entry in a docstring, without markup; entries of base classes come in, too."""
    found: dict[str, str] = {}
    bases = reversed(documented.__mro__) if inspect.isclass(documented) else [documented]
    for one in bases:
        section = _section(one, "Args|Attributes")
        _, *entries = re.split(r"^    \**(\w+(?:, \w+)*): ", section, flags=re.M)
        for names, entry in zip(entries[::2], entries[1::2], strict=True):
            found |= dict.fromkeys(names.split(", "), " ".join(entry.split()))
    return found


def _section(documented: Any, title: str) -> str:
    """The indented lines below a title in a docstring."""
    text = inspect.cleandoc(documented.__doc__ or "")
    found = re.search(rf"^(?:{title}):\n((?:    .*\n|\n)+)", text + "\n", re.M)
    return found[1] if found else ""


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Name -> option, of all that are no positional arguments."""
    options = [action for action in reversed(parser._actions) if action.option_strings]
    return {action.dest: action.option_strings[-1] for action in options}


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
            elif (
                numbers_at is not None
                and len(found) > numbers_at + 1
                and not re.fullmatch(r"-?\d+", word)
            ):
                found.insert(numbers_at, word)
                numbers_at += 1
                continue
            found.append(word)
        return found


class _Switch(argparse.Action):
    """``--noise`` and ``--no-noise``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        between = "_" if "_" in option_strings[-1] else "-"
        no = [f"--no{between}{flag[2:]}" for flag in option_strings]
        super().__init__([*option_strings, *no], dest, nargs=0, **more)

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        setattr(namespace, self.dest, not str(flag).startswith(("--no-", "--no_")))


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
        else:
            words.append(f"{metavar} [{metavar} ...]" if action.nargs == "+" else metavar)
    return " ".join(words).replace("%", "%%")


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _help(entry: str, default: Any, names: Collection[str], between: str) -> str:
    """The entry as a phrase in the words of the command line, and the default behind it."""
    for name in names:
        entry = entry.replace(f"``{name}``", "--" + name.replace("_", between))
    entry = _plain(entry.removesuffix(".")).replace("%", "%%")
    entry, *nothing = re.split(r"[;.,] None: |\. None means ", entry, maxsplit=1)
    usual = nothing[0] if nothing else _default_text(default)
    lower = entry[:1].lower() + entry[1:] if entry[1:2].islower() else entry
    return lower + (f" (default: {usual})" if usual and "default" not in entry else "")


def _default_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is inspect.Parameter.empty:
        return ""
    if value is None or value == ():
        return "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return format(value, {int: ",", float: "g"}.get(type(value), ""))


def _type_arguments(name: str, hint: Any, default: Any) -> dict[str, Any]:
    """Arguments of ``add_argument`` for a parameter of that type."""
    if hint is bool:
        return {"action": _Switch if default is True else "store_true"}
    # The last word of a name is what its value is: MODULE of tasks_module.
    metavar = name.rpartition("_")[2].upper()
    kinds = [kind for kind in _members(hint) if kind is not NoneType]
    if get_origin(kinds[0]) in (tuple, list, Sequence, Iterable):
        several = _one(_members(get_args(kinds[0])[0]))
        return {"metavar": metavar.removesuffix("S"), "nargs": "+", **several}
    return {"metavar": metavar, **_one(kinds)}


def _one(kinds: Sequence[Any]) -> dict[str, Any]:
    """Type of a single value, its choices, and N for a whole number."""
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    plain = [kind for kind in kinds if get_origin(kind) is not Literal]
    if not plain:
        return {"choices": tuple(literals), "metavar": None}
    if float in plain and (literals or str in plain):
        return {"type": number_or_text}
    if str in plain:
        return {"type": str}
    return {"type": int, "metavar": "N"} if plain[0] is int else {"type": plain[0]}


def _members(hint: Any) -> list[Any]:
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]


def number_or_text(text: str) -> float | str:
    """A number where the text is one; the library refuses other texts."""
    try:
        return float(text)
    except ValueError:
        return text
