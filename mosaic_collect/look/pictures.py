"""All pictures of a store by their names, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import LIGHT, Palette, default_style
from mosaic_collect.look.charts import (
    environments_figure,
    lengths_figure,
    pace_figure,
    recorded_pace,
)
from mosaic_collect.look.curves import curves_figure
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.look.motions import motions_figure, worst_trajectories
from mosaic_collect.look.statistics import StoreStatistics
from mosaic_collect.look.timeline import Timeline, timeline_figure
from mosaic_collect.look.values import (
    ACTIONS,
    MEAN,
    SIGMA,
    actions_figure,
    bands_figure,
    images_figure,
    is_image,
    sigma_figure,
)
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.numbering import MOTION_ID
from mosaic_collect.reading.terms import usable_robot
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
        dataset, schema = self._dataset, self._dataset.schema
        names = {
            "timeline": "What each environment did, step by step",
            "lengths": "Lengths of trajectories, by how they ended",
        }
        if MOTION_ID in dataset:
            names["motions"] = "Motions: failures, tracking, recorded frames"
        if dataset.num_envs > 1:
            names["environments"] = "Environments against each other"
        if any(name in dataset and not schema[name].has_axes for name in ACTIONS):
            names["actions"] = "Histogram of each action"
        if SIGMA in dataset:
            names["sigma"] = "Sigma: how much the policy explores"
        drawn = (*ACTIONS, MEAN, SIGMA)  # in pictures of their own
        for field in schema.fields:
            if (
                field.is_float
                and field.row_shape
                and not field.has_axes
                and field.name not in drawn
            ):
                names[f"bands-{field.name}"] = f"Values of {field.name}"
            if is_image(field):
                names[f"images-{field.name}"] = f"Images of {field.name}, over the recording"
        if self._trajectory is not None:
            names["trajectory"] = f"Trajectory {self._trajectory.id}, step by step"
        if recorded_pace(dataset.metadata) is not None:
            names["pace"] = "Speed of the recording, and stalls"
        return names

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
        data, palette = self._dataset, self._palette
        robot = usable_robot(data.metadata)
        kind, _, field = name.partition("-")
        kinds: dict[str, Callable[[], Figure]] = {
            "timeline": lambda: timeline_figure(Timeline.of(data), robot, palette),
            "lengths": lambda: lengths_figure(data.trajectories, robot, palette),
            "motions": lambda: motions_figure(data, self._statistics, robot, palette),
            "environments": lambda: environments_figure(data, self._statistics, palette),
            "actions": lambda: actions_figure(self._statistics, palette),
            "sigma": lambda: sigma_figure(self._statistics, palette),
            "bands": lambda: bands_figure(self._statistics.fields[field], robot, palette),
            "images": lambda: images_figure(data, field, palette),
            "trajectory": lambda: curves_figure(data, self._some_trajectory(), robot, palette),
            "pace": lambda: pace_figure(data, palette),
        }
        with default_style():
            return kinds[kind]()

    @cached_property
    def _statistics(self) -> StoreStatistics:
        return self._measure()

    @cached_property
    def _trajectory(self) -> Trajectory | None:
        """The worst one; without failures the longest that ended, or else any."""
        if self._chosen is not None:
            return self._chosen
        for number in worst_trajectories(self._dataset, 1):
            return self._dataset.trajectory(number)
        table = self._dataset.where(min_valid=1, max_steps=_MOST_STEPS)
        table = table.where(end=OVER) or table
        return table[int(table.columns["num_steps"].argmax())] if len(table) else None

    def _some_trajectory(self) -> Trajectory:
        assert self._trajectory is not None
        return self._trajectory
