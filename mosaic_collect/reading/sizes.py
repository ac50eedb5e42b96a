"""How large a store's fields are: the bytes of their shards, and a table of it all."""

from __future__ import annotations

from mosaic_collect.store.view import StoreView
from mosaic_collect.text import size_of

FIELD_HEAD = ("field", "dtype", "shape", "chunk", "raw", "stored", "ratio", "NaN/inf pairs")


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


def field_rows(view: StoreView) -> list[list[str]]:
    """Cells under ``FIELD_HEAD``, and all fields in sum."""
    sizes, state, rows = stored_nbytes(view), view.state, []
    for name, grid in view.grids.items():
        raw, row = state.num_pairs * grid.field.row_nbytes, grid.field.row_shape
        bad = state.nonfinite.get(name)
        rows.append(
            [
                name,
                grid.field.dtype,
                _times(state.committed_steps, state.num_envs, *row),
                _times(state.block_steps, grid.chunk_envs, *row),
                *_stored(raw, sizes[name]),
                "" if bad is None else f"{bad:,}",
            ]
        )
    raw = state.num_pairs * state.schema.pair_nbytes
    return [*rows, ["all", "", "", "", *_stored(raw, sum(sizes.values())), ""]]


def _stored(raw: int, stored: int) -> list[str]:
    return [size_of(raw), size_of(stored), f"{raw / stored:.2f}" if stored else "–"]


def _times(*sizes: int) -> str:
    return " × ".join(f"{n:,}" for n in sizes)
