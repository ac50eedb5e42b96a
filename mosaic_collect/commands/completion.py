"""``mosaic-collect completion``: completion of commands, options and choices in a shell."""

from __future__ import annotations

import argparse
import shlex
from typing import Annotated, Literal

from mosaic_collect.commands import COMMANDS, command
from mosaic_collect.commands.options import (
    ARGUMENT,
    CommandParser,
    parser_of,
    summary_of,
)

_BASH = """\
_mosaic_collect() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} found=
  if [ "$COMP_CWORD" = 1 ]; then
    found="{commands}"
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
      *)
        case "$word" in
          -*)
            case "${{COMP_WORDS[1]}}" in
{options}
            esac ;;
        esac ;;
    esac
  fi
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
    options, choices = [], []
    for name, parser in parsers.items():
        flags = " ".join(flag for a in parser._actions for flag in _long(a))
        options.append(f'              {name}) found="{flags}" ;;')
        choices += [
            f'      "{name} {flag}") found="{" ".join(map(str, action.choices))}" ;;'
            for action in parser._actions
            if action.choices
            for flag in action.option_strings or [name]
        ]
    script = _BASH.format(
        commands=" ".join(parsers), options="\n".join(options), choices="\n".join(choices)
    )
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def _fish(parsers: dict[str, CommandParser]) -> str:
    lines = []
    for name, parser in parsers.items():
        summary = summary_of(command(name))[0]
        lines.append(f"-n __fish_use_subcommand -f -a {name} -d {shlex.quote(summary)}")
        for action in parser._actions:
            choices = [f"-xa {shlex.quote(' '.join(map(str, action.choices or ())))}"]
            more = " ".join(choices if action.choices else [])
            lines += [
                f"-n '__fish_seen_subcommand_from {name}' -l {flag[2:]} {more}".rstrip()
                for flag in _long(action)
            ]
    return "\n".join(f"complete -c mosaic-collect {line}" for line in lines)


def _long(action: argparse.Action) -> list[str]:
    return [flag for flag in action.option_strings if flag.startswith("--")]
