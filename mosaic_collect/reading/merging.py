"""Which stores may become one file, and why others may not."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_collect.errors import ExportError, InputError, StoreMismatchError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.schema import Field, Schema

_MAX_ID = (1 << 63) - 1


def check_distinct(stores: Sequence[Blobs]) -> None:
    """Refuse the same store twice: its pairs would count twice, unseen.

    Raises:
        InputError: None is named, or one twice, be it by another name.
    """
    if not stores:
        raise InputError("stores: expected at least one, got none")
    seen: dict[str, str] = {}
    for store in stores:
        place = store.place() or store.address
        if place in seen:
            raise InputError(
                f"{store.address}: the same store as {seen[place]}; each is exported once"
            )
        seen[place] = store.address


def check_mergeable(datasets: Sequence[TrajectoryDataset], names: Sequence[str]) -> None:
    """Refuse stores whose exported fields differ; their numbers of environments may.

    Order and defaults of fields do not matter: what they decided is in the recorded rows.

    Args:
        datasets: The stores.
        names: The fields of the export.

    Raises:
        StoreMismatchError: Naming each difference and store.
        ExportError: Their trajectory ids together are beyond int64.
    """
    first, *others = datasets
    found = [
        f"{other.path}: {problem}"
        for other in others
        for problem in _differences(first.schema, other.schema, names)
    ]
    if found:
        raise StoreMismatchError(
            f"stores of one export must have the same fields as {first.path}: " + "; ".join(found)
        )
    if sum(d.state.next_trajectory_id for d in datasets) > _MAX_ID:
        raise ExportError("the stores' trajectory ids, one behind the other, are beyond int64")


def check_grid(datasets: Sequence[TrajectoryDataset]) -> None:
    """Refuse a grid of stores of different width.

    Raises:
        StoreMismatchError: Naming each store's number of environments.
    """
    if len({d.num_envs for d in datasets}) > 1:
        told = ", ".join(f"{d.path} has {d.num_envs}" for d in datasets)
        raise StoreMismatchError(
            f"a grid of several stores needs one number of environments in all: {told}; "
            "use layout='compact'"
        )


def _differences(first: Schema, other: Schema, names: Sequence[str]) -> list[str]:
    mine, theirs = ({f.name: f for f in s.fields} for s in (first, other))
    compared = [n for n in {**mine, **theirs} if n in names]
    return [
        f"{name}: expected {_told(mine.get(name))}, got {_told(theirs.get(name))}"
        for name in compared
        if _told(mine.get(name)) != _told(theirs.get(name))
    ]


def _told(field: Field | None) -> str:
    """A field's width and type in words."""
    if field is None:
        return "no such field"
    width = "one value" if field.dim is None else f"dim {field.dim}"
    return f"{width} of {field.dtype}"
