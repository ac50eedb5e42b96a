"""The commands of the command line. A command is a function whose parameters are its options.

A module is imported when one of its commands is used, or for the help of all commands.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec

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
    "completion": "mosaic_collect.commands.completion",
}
if find_spec("mosaic_collect.demo") is not None:  # in a checkout
    COMMANDS["demo"] = "mosaic_collect.demo"


def command(name: str) -> Callable[..., bool | None]:
    """The function of a command."""
    run: Callable[..., bool | None] = getattr(
        importlib.import_module(COMMANDS[name]), f"run_{name}"
    )
    return run
