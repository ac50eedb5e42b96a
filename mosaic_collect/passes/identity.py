"""Which copy of this package a process has."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import mosaic_collect


@cache
def package_identity() -> str:
    """Its version, and a hash of its sources: copies of one version may differ."""
    folder = Path(mosaic_collect.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return f"{mosaic_collect.__version__} ({digest.hexdigest()[:12]})"
