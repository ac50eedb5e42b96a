"""All pictures of a store by their names, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import LIGHT, Palette, default_style
from mosaic_collect.look.charts import lengths_figure, pace_figure, recorded_pace
from mosaic_collect.look.curves import curves_figure
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.look.motions import failures_figure
from mosaic_collect.look.statistics import StoreStatistics
from mosaic_collect.look.timeline import Timeline, timeline_figure
from mosaic_collect.look.values import (
    ACTIONS,
    actions_figure,
    bands_figure,
    images_figure,
    is_image,
)
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.terms import usable_terms
from mosaic_collect.reading.trajectories import OVER, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PAIRS = 1_000_000
_MOST_STEPS = 20_000  # of a trajectory that is chosen for its curves


class Pictures:
    """Draws a store.

    Args:
        dataset: The store.
        statistics: Measures its fields, when they are first needed; None: over an even part of
            about a million pairs.
        trajectory: Id of the trajectory whose curves are drawn; None: a long one that ended.
        palette: To draw in.

    Raises:
        InputError: No such trajectory.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        statistics: Callable[[], StoreStatistics] | None = None,
        trajectory: int | None = None,
        palette: Palette = LIGHT,
    ) -> None:
        self._dataset, self._palette = dataset, palette
        self._measure = statistics or partial(store_statistics, dataset, max_pairs=_MOST_PAIRS)
        self._chosen = None if trajectory is None else dataset.trajectory(trajectory)

    def __repr__(self) -> str:
        return f"<Pictures of {self._dataset.path}: {', '.join(self.names)}>"

    @property
    def names(self) -> dict[str, str]:
        """The pictures that there are of this store, and in words what each shows."""
        told = {
            "timeline": "Which environment was at what, step by step",
            "lengths": "How long trajectories are, by how they ended",
        }
        if MOTION_ID in self._dataset and self._dataset.trajectories.counts().get("failed"):
            told["failures"] = "How often motions fail, and at which frame"
        for field in self._dataset.schema.fields:
            if (
                field.is_float
                and field.row_shape
                and not field.has_axes
                and field.name not in ACTIONS
            ):
                told[f"bands-{field.name}"] = f"What values the features of {field.name} take"
            if is_image(field):
                told[f"images-{field.name}"] = f"Images of {field.name}, spread over the recording"
        if any(name in self._dataset for name in ACTIONS):
            told["actions"] = "Actions, their means and their sigmas"
        if self._trajectory is not None:
            told["trajectory"] = f"Trajectory {self._trajectory.id}, step by step"
        if recorded_pace(self._dataset.metadata) is not None:
            told["pace"] = "How fast it was recorded, and how much of the time it stalled"
        return told

    def draw(self, name: str) -> Figure:
        """One picture.

        Raises:
            InputError: This store has no such picture.
            MissingDependencyError: matplotlib is not installed.
            CorruptStoreError: A damaged chunk.
        """
        if name not in self.names:
            have = ", ".join(self.names)
            raise InputError(f"picture {name!r}: this store has {have}")
        kinds: dict[str, Callable[[], Figure]] = {
            "timeline": lambda: timeline_figure(Timeline.of(self._dataset), self._palette),
            "failures": lambda: failures_figure(self._dataset, self._palette),
            "lengths": lambda: lengths_figure(self._dataset.trajectories, self._palette),
            "actions": lambda: actions_figure(self._statistics.fields, self._palette),
            "trajectory": self._curves,
            "pace": self._pace,
        }
        field = name.partition("-")[2]
        kinds[f"images-{field}"] = lambda: images_figure(self._dataset, field, self._palette)
        kinds[f"bands-{field}"] = lambda: bands_figure(
            self._statistics.fields[field], self._palette
        )
        with default_style():
            return kinds[name]()

    @cached_property
    def _statistics(self) -> StoreStatistics:
        return self._measure()

    @cached_property
    def _trajectory(self) -> Trajectory | None:
        """A long one that failed; without failures one that ended, or else any."""
        if self._chosen is not None:
            return self._chosen
        table = self._dataset.where(min_valid=1, max_steps=_MOST_STEPS)
        for ends in ("failed", OVER):
            if len(some := table.where(end=ends)):
                table = some
                break
        return table[int(table.columns["num_steps"].argmax())] if len(table) else None

    def _curves(self) -> Figure:
        assert self._trajectory is not None
        terms = usable_terms(self._dataset.schema, self._dataset.metadata)
        return curves_figure(self._trajectory, terms, self._palette)

    def _pace(self) -> Figure:
        pace = recorded_pace(self._dataset.metadata)
        assert pace is not None
        return pace_figure(pace, self._dataset.num_envs, self._palette)
