"""Steps, trajectories and motions of several stores, numbered so that each number has one meaning.

    store            a.zarr            b.zarr
    steps            0 1 2 3           0 1          become 4 5: behind those of a.zarr
    trajectories     0 1 2             0 1          become 3 4: behind those of a.zarr
    motions          walk run          run jump     become 1 2: those of a.zarr, then the new ones

A motion is known by the SHA-256 of its file, or by its path where the metadata hold no hash. An id
that a store's metadata do not name goes behind all named motions. Negative ids mean "no motion".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import InputError, StoreMismatchError
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import TRAJECTORY_ID, Schema

#: The field that holds a collection's motion ids; the ids index ``metadata["motions"]``.
MOTION_ID = "motion_id"
#: Fields whose values are renumbered.
IDS = (TRAJECTORY_ID, MOTION_ID)
_MOTIONS, _COUNTS = "motions", "motion_counts"


@dataclass(frozen=True)
class Numbering:
    """Numbers of one store among those of several.

    Attributes:
        first_step: Number to add to each step.
        first_block: Number to add to each block.
        first_id: Number to add to each trajectory id.
        motions: New id of each motion that the store's metadata name.
        num_motions: Number of motions that the stores name together.
    """

    first_step: int = 0
    first_block: int = 0
    first_id: int = 0
    motions: tuple[int, ...] = ()
    num_motions: int = 0

    def changes(self, field: str) -> bool:
        """Whether any value of a field may become another one."""
        if field == TRAJECTORY_ID:
            return self.first_id > 0
        return field == MOTION_ID and self.motions != tuple(range(self.num_motions))

    def apply(self, field: str, values: NDArray[Any]) -> NDArray[Any]:
        """Renumber values of a field; the same array if nothing changes.

        Raises:
            StoreMismatchError: A motion id does not fit the field's dtype.
        """
        if not self.changes(field) or values.dtype.kind not in "iu":
            return values
        return values + self.first_id if field == TRAJECTORY_ID else self._renumbered(values)

    def _renumbered(self, values: NDArray[Any]) -> NDArray[Any]:
        old, own = values.astype(np.int64), np.asarray(self.motions, np.int64)
        found = np.where(old < 0, old, old + (self.num_motions - len(own)))
        named = (old >= 0) & (old < len(own))
        found[named] = own[old[named]]
        most = np.iinfo(values.dtype).max
        if found.size and found.max() > most:
            raise StoreMismatchError(
                f"{MOTION_ID}: motion {found.max()} of all stores together does not fit "
                f"{values.dtype}, whose greatest value is {most}: read the stores one by one"
            )
        return found.astype(values.dtype)


def number_stores(states: Sequence[StoreState]) -> list[Numbering]:
    """Number the steps, blocks, trajectories and motions of several stores, in their order."""
    steps = accumulate((state.committed_steps for state in states), initial=0)
    blocks = accumulate((state.num_blocks for state in states), initial=0)
    ids = accumulate((state.next_trajectory_id for state in states), initial=0)
    each = [list(_keys(state.metadata)) for state in states]
    number = {key: i for i, key in enumerate(dict.fromkeys(key for keys in each for key in keys))}
    motions = (tuple(number[key] for key in keys) for keys in each)
    return [
        Numbering(
            first_step=step,
            first_block=block,
            first_id=first_id,
            motions=own,
            num_motions=len(number),
        )
        for step, block, first_id, own in zip(steps, blocks, ids, motions, strict=False)
    ]


def join_motions(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the motions that stores name in their metadata, and how often each was recorded.

    Returns:
        ``motions`` and ``motion_counts``, as a store's metadata hold them; empty if no store names
        a motion.
    """
    motions: dict[Hashable, Any] = {}
    counts: dict[str, Counter[Hashable]] = {}
    for told in metadata:
        keys = list(_keys(told))
        for key, entry in zip(keys, _entries(told), strict=True):
            motions.setdefault(key, entry)
        for name, numbers in _counts(told):
            counts.setdefault(name, Counter()).update(dict(zip(keys, numbers, strict=False)))
    numbered = {name: [of_all[key] for key in motions] for name, of_all in counts.items()}
    return {_MOTIONS: list(motions.values()), _COUNTS: numbered} if motions else {}


def ended_motions(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hashes of motions of which a trajectory ended, by a store's metadata."""
    counts = dict(_counts(metadata)).values()
    for at, motion in enumerate(_entries(metadata)):
        if not isinstance(motion, Mapping) or not motion.get("sha256"):
            continue  # nothing to compare with other stores
        if any(numbers[at : at + 1] not in ([], [0]) for numbers in counts):
            yield str(motion["sha256"])


def motion_names(metadata: Mapping[str, Any]) -> list[str]:
    """File names of the motions in a store's metadata, by motion id."""
    entries = _entries(metadata)
    return [os.path.basename(str(e.get("path"))) if isinstance(e, dict) else "" for e in entries]


def find_motions(
    schema: Schema, metadata: Mapping[str, Any], motions: Iterable[str | int]
) -> NDArray[np.int64]:
    """Ids of motions by the names of their files, with or without ending, or by their ids.

    Raises:
        InputError: The stores have no motion ids, or no motion of that name.
    """
    if MOTION_ID not in schema.stored_names:
        raise InputError(f"motion: the store has no field {MOTION_ID}")
    names, found = motion_names(metadata), list[int]()
    for motion in motions:
        ids = [i for i, n in enumerate(names) if motion in (n, os.path.splitext(n)[0])]
        if not ids and (not isinstance(motion, str) or motion.isdecimal()):
            ids = [int(motion)]
        if not ids:
            have = ", ".join(names[:20]) or "no names of motions"
            raise InputError(f"motion {motion!r}: there is none; the store tells {have}")
        found += ids
    return np.unique(np.array(found, np.int64))


def _keys(metadata: Mapping[str, Any]) -> Iterator[Hashable]:
    """Yield what each motion is known by; entries of one store never share a key."""
    seen = Counter[Hashable]()
    for entry in _entries(metadata):
        name = _name(entry)
        yield name, seen[name]
        seen[name] += 1


def _name(entry: Any) -> Hashable:
    if isinstance(entry, Mapping):
        for key in ("sha256", "path"):
            if isinstance(entry.get(key), str) and entry[key]:
                return key, entry[key]
    return "entry", repr(entry)


def _entries(metadata: Mapping[str, Any]) -> list[Any]:
    found = metadata.get(_MOTIONS)
    return found if isinstance(found, list) else []


def _counts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    found = metadata.get(_COUNTS)
    for name, numbers in found.items() if isinstance(found, Mapping) else ():
        if isinstance(numbers, list) and all(isinstance(n, int) for n in numbers):
            yield name, numbers
