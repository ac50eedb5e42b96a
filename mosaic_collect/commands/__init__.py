"""The commands of the command line, and their completion in a shell.

A command is a function whose parameters are its options. A module is imported when one of its
commands is used, or for the help of all commands.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Literal

from mosaic_collect.commands.options import ARGUMENT, CommandParser, parser_of, summary_of

#: Name -> module, whose function ``run_NAME`` prints the answer; it returns False if that is no.
COMMANDS = {
    "collect": "mosaic_collect.commands.collect",
    "export": "mosaic_collect.commands.convert",
    "store": "mosaic_collect.commands.convert",
    "import": "mosaic_collect.commands.convert",
    "inspect": "mosaic_collect.commands.look",
    "stats": "mosaic_collect.commands.look",
    "plot": "mosaic_collect.commands.look",
    "report": "mosaic_collect.commands.look",
    "replay": "mosaic_collect.commands.look",
    "watch": "mosaic_collect.commands.look",
    "verify": "mosaic_collect.commands.verify",
    "copy": "mosaic_collect.commands.convert",
    "completion": "mosaic_collect.commands",
}
if find_spec("mosaic_collect.demo") is not None:  # in a checkout
    COMMANDS["demo"] = "mosaic_collect.demo"


def command(name: str) -> Callable[..., bool | None]:
    """The function of a command."""
    module = importlib.import_module(COMMANDS[name])
    run: Callable[..., bool | None] = getattr(module, f"run_{name}")
    return run


#: A case is chosen by the number of the word, the command, the word before, and the word.
_BASH = """\
_mosaic_collect() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} found=
  case "$COMP_CWORD ${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD - 1]}} $word" in
    "1 "*) found="{commands}" ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$found" -- "$word"))
}}
complete -o default -F _mosaic_collect mosaic-collect"""


def run_completion(shell: Annotated[Literal["bash", "zsh", "fish"], ARGUMENT]) -> None:
    """Print a script that completes commands, options and choices in a shell.

    Source it from the shell's startup file: source <(mosaic-collect completion bash).

    Args:
        shell: The shell.

    Example:
        mosaic-collect completion bash
    """
    parsers = {name: parser_of(name, command(name)) for name in COMMANDS}
    print(_fish(parsers) if shell == "fish" else _bash(parsers, zsh=shell == "zsh"))


def _bash(parsers: dict[str, CommandParser], zsh: bool) -> str:
    """For bash; zsh takes it, too, once it has loaded its emulation."""
    cases = [
        f'    *" {name} {flag} "*) found="{" ".join(map(str, action.choices))}" ;;'
        for name, parser in parsers.items()
        for action in parser._actions
        if action.choices
        for flag in action.option_strings or [name]
    ]
    for name, parser in parsers.items():
        flags = " ".join(flag for action in parser._actions for flag in _long(action))
        cases.append(f'    *" {name} "*" -"*) found="{flags}" ;;')
    script = _BASH.format(commands=" ".join(parsers), cases="\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def _fish(parsers: dict[str, CommandParser]) -> str:
    lines = []
    for name, parser in parsers.items():
        summary = summary_of(command(name))[0]
        lines.append(f"-n __fish_use_subcommand -f -a {name} -d {shlex.quote(summary)}")
        for action in parser._actions:
            choices = shlex.quote(" ".join(map(str, action.choices or ())))
            more = f" -xa {choices}" if action.choices else ""
            within = f"-n '__fish_seen_subcommand_from {name}'"
            lines += [f"{within} -l {flag[2:]}{more}" for flag in _long(action)]
    return "\n".join(f"complete -c mosaic-collect {line}" for line in lines)


def _long(action: argparse.Action) -> list[str]:
    return [flag for flag in action.option_strings if flag.startswith("--")]
