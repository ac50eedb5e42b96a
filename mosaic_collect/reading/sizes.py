"""How many bytes a store's shards take."""

from __future__ import annotations

from mosaic_collect.store.view import StoreView


def stored_nbytes(view: StoreView) -> dict[str, int]:
    """Bytes of each field's shards; files shared with a field before it count there, once."""
    counted: set[str] = set()
    return {name: _field(view, name, counted) for name in view.grids}


def _field(view: StoreView, name: str, counted: set[str]) -> int:
    found = view.versions(name)
    if view.blobs.links:
        found = [version for version in found if version.tag not in counted]
        counted.update(version.tag for version in found)
    return sum(version.nbytes for version in found)
