"""The stores that a loader draws from: the steps it sees, the pairs that count, and its state.

Stores may grow while they are drawn from. A loader sees what it saw last until it is told to look
again. A saved state names the stores by their identity, how many steps of each were seen, and how
their ids were numbered, so that it finds the same pairs again in stores that have grown since, and
in folders of ranks that others have joined.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_collect.checks import whole
from mosaic_collect.errors import IncompleteStoreError, InputError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.selection import (
    Selection,
    chosen_fields,
    every_pair,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, check_mergeable
from mosaic_collect.reading.table import Table
from mosaic_collect.sampling.options import EPOCHS, LoaderOptions
from mosaic_collect.sampling.order import Position, rank_share
from mosaic_collect.sampling.tiles import PADDING_MASK, Tiles
from mosaic_collect.store.ranks import Address, Place, check_distinct
from mosaic_collect.store.schema import TRAJECTORY_ID, VALID_MASK
from mosaic_collect.store.view import StoreView

#: The path of a store, a dataset, or several of them.
Store = Address | TrajectoryDataset
Stores = Store | Sequence[Store]
#: One of them, whatever the working directory becomes.
Named = Place | TrajectoryDataset
#: Ids of trajectories to keep, as each store stores them, by the store's identity.
Kept = Mapping[str, NDArray[np.int64]]

_VERSION = 5
_SHARED_NBYTES = 1 << 17  # of a state in shared memory
_HEAD = 16  # the number of publications, odd while one is written; and the state's bytes
#: Options on which batches do not depend, or that a state names beside the others.
_NO_OPTIONS = {"fields", "threads", "pin_memory", "allow_different", "allow_incomplete"}


class PairSource:
    """The steps of stores that are drawn from, and their tiles; the same until it looks again.

    Attributes:
        committed: Steps of each store that are seen.
        tiles: Tiles of the chosen pairs, for an iteration without workers. The parts of their table
            are snapshots of the stores; in folders of ranks only of those that have steps.
        is_stale: Whether it is to look again.
    """

    committed: list[int]
    tiles: Tiles
    _tiles_for: dict[int, Tiles]

    def __init__(self, stores: Stores, options: LoaderOptions) -> None:
        self._named, self._options = named(stores), options
        self.is_stale = False
        self._wanted: Sequence[int] | None = None
        views = open_views(self._named, options.allow_incomplete)
        self._kept = _kept(options.trajectories, views)
        self._see(views, None, "committed")

    def tiles_for(self, workers: int) -> Tiles:
        """The tiles when so many workers share the pool."""
        if workers not in self._tiles_for:
            self._tiles_for = {1: self.tiles, workers: self.tiles.for_workers(workers)}
        return self._tiles_for[workers]

    def request(self, committed: Sequence[int] | None) -> None:
        """Have it look again when nothing is being drawn: at so many steps, or at all."""
        self.is_stale, self._wanted = True, committed

    def look_again(self) -> None:
        """See what was requested, also in stores of ranks that had no step yet.

        Raises:
            InputError: There are fewer steps.
        """
        wanted, self._wanted, self.is_stale = self._wanted, None, False
        self._see(self._open_again(), wanted, "committed")

    def with_options(self, options: LoaderOptions) -> PairSource:
        """The same pairs for other batches; options that choose pairs must be the same.

        Raises:
            InputError: The ranks would have too few pairs.
        """
        other = copy.copy(self)
        other._options = options
        if options.mode == EPOCHS:
            rank_share(self.tiles.num_pairs, options)
        return other

    def state(self, position: Position | None = None) -> dict[str, Any]:
        """All that the batches to come depend on, as plain numbers and names."""
        chosen = self._options.as_json()
        states = [part.state for part in self.tiles.table.parts]
        return {
            "version": _VERSION,
            "options": {
                **{n: v for n, v in vars(self._options).items() if n not in _NO_OPTIONS},
                "finite_fields": sorted(self._options.finite_fields or ()),
                "steps": chosen.get("steps"),
                "motions": chosen.get("motions"),
                "trajectories": _digest(self._kept),
            },
            "stores": [state.identity for state in states],
            "fields": [f.name for f in self.tiles.fields],
            "committed": self.committed,
            "next_ids": [state.next_trajectory_id for state in states],
            "num_pairs": self.tiles.num_pairs,
            "num_tiles": len(self.tiles.tiles),
            "position": asdict(position or Position()),
        }

    def restored(self, state: Any) -> tuple[PairSource, Position]:
        """The steps that a state saw, of the stores that it names, and its position.

        Raises:
            InputError: The value is no state, or batches would not continue as they began.
        """
        try:
            if state["version"] != _VERSION:
                raise KeyError
            found = zip(state["stores"], state["committed"], state["next_ids"], strict=True)
            stores = {n: (whole(s, "state", 0), whole(i, "state", 0)) for n, s, i in found}
            position = Position(**state["position"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "state: expected what BatchLoader.state_dict() of this version gives"
            ) from None
        own = self.state()
        if any(state[name] != own[name] for name in ("stores", "committed", "next_ids")):
            restored = self._as_seen(stores, state)
        else:
            restored = self
        _check_same(state, restored.state())
        return restored, position

    def _as_seen(self, stores: Mapping[str, tuple[int, int]], state: Any) -> PairSource:
        """These stores alone, with as many steps and ids as there were."""
        there: dict[str, StoreView] = {p.state.identity: p for p in self.tiles.table.parts}
        if any(
            name not in there or there[name].state.committed_steps < steps
            for name, (steps, _next_id) in stores.items()
        ):
            there = {view.state.identity: view for view in self._open_again()}
        known = [(there[name], *seen) for name, seen in stores.items() if name in there]
        if not known:
            return self
        other = copy.copy(self)
        # With the ids that had been used then: those of stores behind are as they were.
        views = [
            StoreView(view.blobs, replace(view.state, next_trajectory_id=next_id))
            for view, _steps, next_id in known
        ]
        as_named_then = _kept(self._options.trajectories, views)
        if _digest(as_named_then) == state.get("options", {}).get("trajectories"):
            other._kept = as_named_then
        other._see(views, [steps for _view, steps, _next_id in known], "state")
        return other

    def _open_again(self) -> list[StoreView]:
        return open_views(self._named, self._options.allow_incomplete, refreshed=True)

    def _see(self, views: list[StoreView], committed: Sequence[int] | None, name: str) -> None:
        there = [view.state.committed_steps for view in views]
        wanted = there if committed is None else [whole(steps, name, 0) for steps in committed]
        if len(wanted) != len(there) or any(w > t for w, t in zip(wanted, there, strict=True)):
            raise InputError(f"{name}: is of stores of {wanted} steps, these have {there}")
        tiles = self._select(views, None if wanted == there else wanted)
        if self._options.mode == EPOCHS:
            rank_share(tiles.num_pairs, self._options)
        self.committed, self.tiles, self._tiles_for = wanted, tiles, {1: tiles}

    def _select(self, views: Sequence[StoreView], committed: Sequence[int] | None) -> Tiles:
        """The tiles of the chosen pairs: one pass over the masks, if any pair is left out."""
        options = self._options
        names = [f.name for v in views for f in chosen_fields(v.state.schema, options.fields)]
        names += options.finite_fields or ()
        check_mergeable(views, names, options.allow_different)
        table = Table(views)
        fields = chosen_fields(table.state.schema, options.fields)
        held = {f.name for f in fields}
        if VALID_MASK in held:
            raise InputError("fields: batches hold no valid_mask, all their pairs are valid")
        if options.padding and PADDING_MASK in held:
            raise InputError(f"fields: {PADDING_MASK} is the mask of windows; leave it out")
        if not table.state.num_blocks:
            raise InputError(f"{table.address}: no committed step, nothing to draw from")
        table.check_extent()
        selection = self._selection(table, names, committed)
        tiles = Tiles(table, fields, selection, options)
        if not tiles.num_pairs:
            what = "pair" if options.window is None else f"window of {options.window} steps"
            raise InputError(f"{table.address}: no {what} is left to draw from")
        return tiles

    def _selection(
        self, table: Table, names: Sequence[str], committed: Sequence[int] | None
    ) -> Selection:
        """The pairs that count, as an export of these fields chooses them."""
        options = self._options
        if options.window is not None:
            # Where an id is damaged, nobody knows whose the pair is.
            names = [*names, TRAJECTORY_ID]
        fields = chosen_fields(table.state.schema, names)
        nonfinite = {} if options.skip_damaged else nonfinite_fields(table, fields)
        asked_ids = _asked_ids(self._kept, table)
        rules = options.rules(table, fields, nonfinite, None, committed, asked_ids)
        if table.has_mask or rules.looked_at or rules.steps is not None or rules.needs_ids:
            return select(rules)[0]
        return every_pair(table)


def named(stores: Stores) -> list[Named]:
    """The places of the stores; a dataset is copied, and so keeps its own snapshot.

    Raises:
        InputError: No store.
    """
    several = stores if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
    if not several:
        raise InputError("stores: expected at least one, got none")
    return [
        copy.copy(one) if isinstance(one, TrajectoryDataset) else Place.of(one, "stores")
        for one in several
    ]


def open_views(
    stores: Sequence[Named], allow_incomplete: bool = False, refreshed: bool = False
) -> list[StoreView]:
    """Snapshots of all stores; in folders of ranks of those that have steps.

    Args:
        stores: Stores as returned by ``named``.
        allow_incomplete: Whether the stores of ranks that joined may be missing.
        refreshed: Whether datasets are to look again.

    Raises:
        InputError: One store twice.
        IncompleteStoreError: A rank's store is missing, and may not.
        StoreError: A store cannot be read, or there is none.
    """
    views = []
    for store in stores:
        if isinstance(store, Place):
            found = StoreSet.open(store)
        else:
            if refreshed:
                store.refresh()
            found = store.stores
        if found.missing and not allow_incomplete:
            raise IncompleteStoreError(
                f"{', '.join(found.missing)}: recorded by ranks that joined, and missing: find "
                "them, or go on without them by allow_incomplete=True"
            )
        views += found.with_steps()
    check_distinct([view.blobs for view in views])
    return views


def _kept(trajectories: Iterable[int] | None, views: Sequence[StoreView]) -> Kept | None:
    """Trajectories to keep, named by the ids that they have among these stores.

    The ids of all but the first store become others when a store before it grows, so they are
    resolved once. Of the last store also ids that it has not used yet are taken.
    """
    if trajectories is None:
        return None
    ids = np.array([*trajectories], np.int64)
    first, kept = 0, dict[str, NDArray[np.int64]]()
    for view in views:
        used = np.iinfo(np.int64).max if view is views[-1] else view.state.next_trajectory_id
        own, first = ids - first, first + view.state.next_trajectory_id
        kept[view.state.identity] = own[(own >= 0) & (own < used)]
    return kept


def _asked_ids(kept: Kept | None, table: Table) -> NDArray[np.int64] | None:
    """The ids that trajectories to keep have in a table."""
    if kept is None:
        return None
    found = []
    # Of a store that is not the last one, an id that it has not used yet is the next store's.
    for part in table.parts:
        own = kept.get(part.state.identity, np.empty(0, np.int64))
        found.append(own[own < part.state.next_trajectory_id] + part.numbering.first_id)
    return np.concatenate(found)


def _digest(kept: Kept | None) -> str | None:
    """A digest of trajectories to keep, which may be many."""
    if kept is None:
        return None
    found = sha256()
    for name, ids in sorted(kept.items()):
        if len(ids):
            found.update(name.encode() + b"\0" + ids.astype("<i8").tobytes())
    return found.hexdigest()


def _check_same(state: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a state whose batches would not go on as they began, naming all that differs."""
    flat, own = ({**s.get("options", {}), **s} for s in (state, ours))
    wrong = [
        f"{key}: the state has {flat.get(key)!r}, this loader {own[key]!r}"
        for key in own
        if key not in ("options", "position") and flat.get(key) != own[key]
    ]
    if wrong:
        raise InputError("state: " + "; ".join(wrong))


class SharedState:
    """A state in shared memory: one process publishes it, its workers read it when they begin.

    It reaches persistent workers of a ``DataLoader``, which hold copies of the loader and inherit
    this by a fork, or by multiprocessing's pickle. A copy by plain pickle is independent.
    """

    def __init__(self) -> None:
        with torch.inference_mode(False):
            memory = torch.zeros(_SHARED_NBYTES, dtype=torch.uint8, device="cpu")
        self._memory = memory.share_memory_()
        self._read = 0

    def publish(self, document: dict[str, Any]) -> None:
        """Replace the state; an error if it names more stores than fit."""
        data = np.frombuffer(json.dumps(document).encode(), np.uint8)
        memory, head = self._arrays()
        if len(data) > len(memory) - _HEAD:
            raise InputError(f"stores: {len(data)} bytes name them, {len(memory)} are the most")
        head[0] += 1
        head[1] = len(data)
        memory[_HEAD : _HEAD + len(data)] = data
        head[0] += 1
        self._read = int(head[0])

    def receive(self) -> dict[str, Any] | None:
        """The state, if there is another one than this process has read; else None."""
        memory, head = self._arrays()
        while (number := int(head[0])) != self._read:
            data = memory[_HEAD : _HEAD + int(head[1])].tobytes()
            if number % 2 == 0 and int(head[0]) == number:
                self._read = number
                document: dict[str, Any] = json.loads(data)
                return document
        return None

    def _arrays(self) -> tuple[Any, Any]:
        memory = self._memory.numpy()
        return memory, memory[:_HEAD].view(np.int64)
