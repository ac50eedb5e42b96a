"""The command line, ``mosaic-collect`` or ``python -m mosaic_collect``: thin over the library.

Exit codes: 0 all is well; 1 the answer is no (a damaged store, an export that differs); 2 the
command could not be done (bad arguments, an error); 130 interrupted, what was added is committed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mosaic_collect import __version__
from mosaic_collect.commands import COMMANDS
from mosaic_collect.commands.options import flags_of, in_flags
from mosaic_collect.errors import MosaicCollectError
from mosaic_collect.text import any_text, reason

OK, NO, FAILED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    any_text(sys.stdout)
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if parsed.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return OK if parsed.run(parsed) else NO
    except BrokenPipeError:
        # Whoever read our answer has gone; nor must the interpreter flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (MosaicCollectError, OSError) as error:
        if parsed.verbose:
            logging.exception("%s failed", parsed.command)
        message = in_flags(reason(error), parsed.flags)
        print(f"mosaic-collect {parsed.command}: {message}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"mosaic-collect {parsed.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, like every other error: usages are of up to thirty."""

    def error(self, message: str) -> NoReturn:
        told = message.removeprefix("argument ")
        self.exit(FAILED, f"{self.prog}: {told} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = _Parser(
        prog="mosaic-collect",
        description="Record robot policies into sharded Zarr stores, and export them to MOSAIC.",
    )
    parser.add_argument("--version", action="version", version=f"mosaic-collect {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.HELP,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--verbose", action="store_true", help="log what happens, and tracebacks")
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, flags=flags_of(sub))
    return parser
