"""What a rank that will not come back had claimed and not finished, given to the others.

Only by an explicit word: nobody can tell a dead rank from a slow one. Its store stays as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from mosaic_collect.collection.claims import Claims
from mosaic_collect.collection.motions import Motion
from mosaic_collect.errors import InputError, StoreLockedError
from mosaic_collect.reading.ranks import ended_motions
from mosaic_collect.store.blobs import Blobs, Claim
from mosaic_collect.store.ranks import part_name
from mosaic_collect.store.view import read_state

_log = logging.getLogger(__name__)
_TRIES, _SECONDS = 20, 0.5


def take_over(whole: Blobs, claims: Claims, ranks: Iterable[int], motions: Sequence[Motion]) -> int:
    """Give back all motions of ranks of which no trajectory has ended; how many these are.

    A motion of which one has ended stays with its rank, whose store has it.

    Args:
        whole: The folder of ranks.
        claims: Of this rank.
        ranks: Those that will not come back.
        motions: All.

    Raises:
        InputError: This rank itself.
        StoreLockedError: Such a rank is at work.
        StoreError: Its store cannot be read.
    """
    found = 0
    for rank in ranks:
        if rank == claims.rank:
            raise InputError(f"take_over: expected other ranks, got this one, {rank}")
        held = [m.sha256 for m in motions if claims.owner(m.sha256) == rank]
        blobs = whole.within(part_name(rank))
        if held and blobs.is_there():
            claim = _claim(blobs)
            try:
                state = read_state(blobs)
                ended = set() if state is None else set(ended_motions(state.metadata))
                free = [motion for motion in held if motion not in ended]
            finally:
                claim.release()
        else:
            free = held
        for motion in free:
            claims.take_away(motion, rank)
        _log.warning("%d motions of rank %d are given to the others", len(free), rank)
        found += len(free)
    return found


def _claim(blobs: Blobs) -> Claim:
    """The right to write there, which nobody alive has; others may be looking just now, too."""
    for _ in range(_TRIES):
        try:
            return blobs.claim(lambda: None)
        except StoreLockedError as error:
            locked = error
            time.sleep(_SECONDS)
    raise locked
