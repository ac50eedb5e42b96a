"""Where an iteration is, and what it was of: a sampler's state, as plain numbers and names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.sampling.options import SamplerOptions
from mosaic_collect.sampling.seen import Seen
from mosaic_collect.sampling.stream import Place

_VERSION = 2
_SAME = ("batch_size", "mode", "seed", "rank", "world_size", "pool_mb", "drop_last")
_SAME_IN_STREAMS = ("uses", "replace")
_FILTERS = ("exclude_truncated", "exclude_failed", "skip_damaged")


@dataclass(frozen=True, kw_only=True)
class Position:
    """Of an iteration.

    Attributes:
        epoch: Which; or which stream.
        batches: Handed out, of the epoch or of the stream.
        renewed: As a stream's ``Place`` has it.
        paid: As a stream's ``Place`` has it.
        worker: Whose iteration it is: a ``DataLoader``'s worker, or 0 of 1.
        workers: Of how many.
    """

    epoch: int = 0
    batches: int = 0
    renewed: int = 0
    paid: float = 0.0
    worker: int = 0
    workers: int = 1

    def at(self, place: Place) -> Position:
        """A stream's, further on."""
        return replace(self, batches=place.batches, renewed=place.renewed, paid=place.paid)

    def of(self, worker: int, workers: int, go_on: bool) -> Position:
        """Where a worker begins: here, if this is its own place, else at the epoch's start.

        Args:
            worker: Which.
            workers: Of how many.
            go_on: Whether it must go on from here.

        Raises:
            InputError: It must, but this is another one's place.
        """
        own = not self.batches or (self.worker, self.workers) == (worker, workers)
        if go_on and not own:
            raise InputError(
                f"state: is of worker {self.worker} of {self.workers}, this is worker {worker} of "
                f"{workers}, which gives other batches"
            )
        here = self if own else Position(epoch=self.epoch)
        return replace(here, worker=worker, workers=workers)

    @property
    def place(self) -> Place:
        """In a stream."""
        return Place(self.batches, self.renewed, self.paid)

    def behind_batch(self) -> Position:
        """One batch on."""
        return replace(self, batches=self.batches + 1)


def state_of(
    options: SamplerOptions, seen: Seen, position: Position | None = None
) -> dict[str, Any]:
    """All that the batches to come depend on."""
    names = (*_SAME, *_SAME_IN_STREAMS, *_FILTERS)
    return {
        "version": _VERSION,
        "options": {**{name: getattr(options, name) for name in names}, **_asked(options)},
        "stores": [view.state.identity for view in seen.views],
        "fields": [f.name for f in seen.tiles.fields],
        "committed": seen.committed,
        "num_pairs": seen.tiles.num_pairs,
        "num_tiles": len(seen.tiles.tiles),
        "position": asdict(position or Position()),
    }


def told(state: Any) -> tuple[list[int], Position]:
    """Steps of each store that the state saw, and where it was.

    Raises:
        InputError: It is no state.
    """
    try:
        if state["version"] == _VERSION:
            return list(state["committed"]), Position(**state["position"])
    except (KeyError, TypeError):
        pass
    raise InputError("state: expected what Sampler.state_dict() of this version gives")


def check_state(state: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a state whose batches would not go on as they began.

    Raises:
        InputError: Naming all that differs.
    """
    flat, own = ({**s.get("options", {}), **s} for s in (state, ours))
    wrong = [
        f"{key}: the state has {flat.get(key)!r}, this sampler {own[key]!r}"
        for key in own
        if key not in ("options", "position") and flat.get(key) != own[key]
    ]
    if wrong:
        raise InputError("state: " + "; ".join(wrong))


def _asked(options: SamplerOptions) -> dict[str, str | None]:
    """The filters that are no flags; ids may be many, so their digest stands for them."""
    steps, ids = options.steps, options.trajectories
    return {
        "steps": None if steps is None else f"{steps.start}:{steps.stop}:{steps.step}",
        "trajectories": None if ids is None else sha256(ids.tobytes()).hexdigest(),
    }
