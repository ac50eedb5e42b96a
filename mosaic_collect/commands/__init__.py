"""The commands of the command line, one module each.

A command has ``NAME``, ``HELP``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(arguments)``,
which prints its answer and says whether it is yes.
"""

from typing import Any

from mosaic_collect.commands import (
    collect,
    copy,
    demo,
    export,
    import_npy,
    inspect,
    plot,
    replay,
    report,
    stats,
    verify,
    watch,
)

COMMANDS: tuple[Any, ...] = (
    collect,
    export,
    import_npy,
    inspect,
    stats,
    plot,
    report,
    replay,
    watch,
    verify,
    copy,
    demo,
)

__all__ = ["COMMANDS"]
