"""How many bytes a store's shards take."""

from __future__ import annotations

from mosaic_collect.store.blobs import Version
from mosaic_collect.store.view import StoreView


def stored_nbytes(view: StoreView) -> dict[str, int]:
    """Bytes of each field's shards; files shared with a field before it count there, once."""
    counted: set[str] = set()
    return {name: _field(view, name, counted) for name in view.grids}


def _field(view: StoreView, name: str, counted: set[str]) -> int:
    grid = view.grids[name]
    shards = (view.blobs.find(grid.shard_key(b)) for b in range(view.state.num_blocks))
    return sum(_size(version, counted) for version in shards)


def _size(version: Version | None, counted: set[str]) -> int:
    """Of what was not counted yet; 0 for what is not there."""
    if version is None or version.tag in counted:
        return 0
    counted.add(version.tag)
    return version.nbytes
