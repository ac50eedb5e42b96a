"""The command line, ``mosaic-collect`` or ``python -m mosaic_collect``: thin over the library.

Exit codes:

    0    success
    1    the answer is no: a damaged store, an export that differs
    2    the command could not be done: bad arguments, an error
    70   a bug in mosaic_collect; the traceback is printed
    130  interrupted; recorded steps are committed
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any

from mosaic_collect import __version__
from mosaic_collect.commands import COMMANDS, command
from mosaic_collect.commands.options import (
    BAD_USAGE,
    CommandParser,
    closest,
    flags_of,
    in_flags,
    parser_of,
    summary_of,
)
from mosaic_collect.errors import MosaicCollectError
from mosaic_collect.text import any_text, reason

OK, NO, FAILED, BUG, INTERRUPTED = 0, 1, BAD_USAGE, 70, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    any_text(sys.stdout)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), file=sys.stdout if words else sys.stderr)
        return OK if words else FAILED
    if words[0] == "--version":
        print(f"mosaic-collect {__version__}")
        return OK
    name = words[0]
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        hint = closest(name, [*COMMANDS, "--help", "--version"])
        see = "(see mosaic-collect --help)"
        print(f"mosaic-collect: unknown {kind} {name}{hint} {see}", file=sys.stderr)
        return FAILED
    return _run(words)


def parse(words: Sequence[str]) -> tuple[CommandParser, dict[str, Any]]:
    """Parser and options of a command line, such as ``["inspect", "expert.zarr"]``.

    Raises:
        SystemExit: Help was asked for, or the options are wrong.
    """
    parser = parser_of(words[0], command(words[0]))
    return parser, vars(parser.parse_args(words[1:]))


def help_text() -> str:
    """All commands with the first sentence of each."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [
        "usage: mosaic-collect COMMAND [OPTION ...]",
        "",
        textwrap.fill(
            "Record robot policies into sharded Zarr stores, look at them, and export them.", width
        ),
        "",
        "commands:",
        *(
            textwrap.fill(
                summary_of(command(name))[0].rstrip("."),
                width=width,
                initial_indent=f"  {name:<12}",
                subsequent_indent=" " * 14,
            )
            for name in COMMANDS
        ),
        "",
        "mosaic-collect COMMAND --help shows the options of a command.",
        "mosaic-collect --version shows the version.",
    ]
    return "\n".join(lines)


def _run(words: Sequence[str]) -> int:
    name, (parser, options) = words[0], parse(words)
    verbose = options.pop("verbose", False)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return NO if command(name)(**options) is False else OK
    except BrokenPipeError:
        # Whoever read our answer has gone; nor must the interpreter flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (MosaicCollectError, OSError, MemoryError) as error:
        if verbose:
            logging.exception("%s failed", name)
        message = in_flags(reason(error), flags_of(parser))
        print(f"mosaic-collect {name}: {message}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"mosaic-collect {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # noqa: BLE001  printed whole, with a code of its own
        traceback.print_exc()
        print(f"mosaic-collect {name}: this is a bug in mosaic_collect", file=sys.stderr)
        return BUG
