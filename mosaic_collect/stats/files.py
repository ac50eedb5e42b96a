"""Statistics as a file."""

from __future__ import annotations

import json
import os

from mosaic_collect.checks import local_path
from mosaic_collect.stats.measures import StoreStatistics
from mosaic_collect.store.files import write_target


def write_statistics(found: StoreStatistics, path: str | os.PathLike[str]) -> None:
    """Write the JSON, whole or not at all; a file of that name is replaced.

    Raises:
        InputError: A URL.
        OSError: It could not be written.
    """
    text = json.dumps(found.to_json(), allow_nan=False)
    write_target(local_path(path, "path"), text.encode())
