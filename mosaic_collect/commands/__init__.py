"""The commands of the command line. A command is a dataclass of its options with ``run()``.

A module is imported when one of its commands is used, or for the help of all commands.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from mosaic_collect.commands.options import Command

#: Name -> module and class.
COMMANDS = {
    "collect": "mosaic_collect.commands.collect:Collect",
    "export": "mosaic_collect.commands.convert:Export",
    "store": "mosaic_collect.commands.convert:StoreSubset",
    "import": "mosaic_collect.commands.convert:Import",
    "inspect": "mosaic_collect.commands.look:Inspect",
    "stats": "mosaic_collect.commands.look:Stats",
    "plot": "mosaic_collect.commands.look:Plot",
    "report": "mosaic_collect.commands.look:Report",
    "replay": "mosaic_collect.commands.look:Replay",
    "watch": "mosaic_collect.commands.look:Watch",
    "verify": "mosaic_collect.commands.verify:Verify",
    "copy": "mosaic_collect.commands.convert:Copy",
    "completion": "mosaic_collect.commands.completion:Completion",
}
if find_spec("mosaic_collect.demo") is not None:  # in a checkout
    COMMANDS["demo"] = "mosaic_collect.demo:Demo"


def command(name: str) -> type[Command]:
    """The class of a command."""
    module, kind = COMMANDS[name].split(":")
    found: type[Command] = getattr(importlib.import_module(module), kind)
    return found
