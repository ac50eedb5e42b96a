"""Which stores may become one file, and why others may not."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_collect.errors import (
    ExportError,
    IncompleteStoreError,
    StoreMismatchError,
    StoreNotFoundError,
)
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.opened import looked_at
from mosaic_collect.store.address import Addresses
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.place import Place
from mosaic_collect.store.schema import Field, Schema

_MAX_ID = (1 << 63) - 1


def open_each(
    where: Addresses, incomplete: bool = True, threads: int | None = None
) -> list[TrajectoryDataset]:
    """Datasets of all stores that are meant, one each; of ranks only those with steps.

    Args:
        where: As ``TrajectoryDataset`` takes it; what differs is not judged here.
        incomplete: Whether ranks may be missing, or have no step yet.
        threads: Of each dataset.

    Raises:
        InputError: No store, or one twice.
        IncompleteStoreError: Ranks are, and may not.
        StoreError: Of a store.
    """
    found = Place.of(where, "store").find()
    datasets = []
    for one in found:
        late = one.missing()
        for blobs, view in looked_at(one):
            dataset = TrajectoryDataset(blobs, threads)
            if one.parts is None or dataset.num_steps:
                datasets.append(dataset)
            elif view is None or dataset.status != COMPLETE:
                late.append(blobs.address)
        if late and not incomplete:
            raise IncompleteStoreError(
                f"{', '.join(late)}: recorded by ranks that joined, and missing or without a step: "
                "finish or find them, or go on without them by allow_incomplete=True"
            )
    if not datasets:
        raise StoreNotFoundError(f"{', '.join(o.address for o in found)}: no rank has a step yet")
    return datasets


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
