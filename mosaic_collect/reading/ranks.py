"""Consistency checks of a multi-rank dataset: missing ranks, foreign stores, motions twice.

A rank that joined and whose store is missing took data with it. A rank that never joined has no
data: the others recorded its share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mosaic_collect.errors import StoreError
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.ranks import PART, Recording, part_name
from mosaic_collect.store.view import read_state


def never_joined(found: Recording, told: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Addresses of the stores of ranks that the other ranks expect and that never joined.

    Args:
        found: The multi-rank dataset.
        told: Metadata of its stores.
    """
    if not found.is_multi_rank:
        return ()
    entries = (metadata.get(PART) for metadata in told)
    sizes = (entry.get("world_size") for entry in entries if isinstance(entry, Mapping))
    most = max((size for size in sizes if isinstance(size, int)), default=0)
    known = {*found.missing(), *(blobs.address for blobs in found.stores.values())}
    late = (found.blobs.within(name).address for name in map(part_name, range(most)))
    return tuple(address for address in late if address not in known)


def rank_problems(found: Recording) -> Iterator[str]:
    """Yield the contradictions between the stores of a multi-rank dataset."""
    if not found.is_multi_rank:
        return
    yield from (
        f"{address}: a rank joined, and its store is not there" for address in found.missing()
    )
    recorded: dict[str, list[str]] = defaultdict(list)
    for name, state in states(found):
        try:
            found.check(name, state)
        except StoreError as error:
            yield str(error)
        for motion in ended_motions(state.metadata):
            recorded[motion].append(name)
    for motion, names in recorded.items():
        if len(names) > 1:
            yield f"{found.address}: motion {motion} was recorded by {' and '.join(names)}"


def rank_notes(found: Recording) -> list[str]:
    """Findings that are no problem."""
    late = never_joined(found, [state.metadata for _name, state in states(found)])
    return [f"{', '.join(late)}: ranks that never joined"] if late else []


def states(found: Recording) -> Iterator[tuple[str, StoreState]]:
    """Yield name and state of each store that can be read."""
    for name, blobs in found.stores.items():
        try:
            state = read_state(blobs)
        except StoreError:
            continue
        if state is not None:
            yield name, state


def ended_motions(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hashes of motions of which a trajectory ended, by a store's metadata."""
    motions, counts = metadata.get("motions") or [], metadata.get("motion_counts") or {}
    for at, motion in enumerate(motions):
        if not isinstance(motion, Mapping) or not motion.get("sha256"):
            continue  # nothing to compare with other stores
        if any(numbers[at : at + 1] not in ([], [0]) for numbers in counts.values()):
            yield str(motion["sha256"])
