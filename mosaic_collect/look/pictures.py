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
from mosaic_collect.store.robot import Robot

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
        """Pictures that this store has: name -> what it shows, in words."""
        return {name: title for name, (title, _) in self._charts().items()}

    def draw(self, name: str) -> Figure:
        """One picture.

        Raises:
            InputError: This store has no such picture.
            MissingDependencyError: matplotlib is not installed.
            CorruptStoreError: A damaged chunk.
        """
        charts = self._charts()
        if name not in charts:
            raise InputError(f"picture {name!r}: this store has {', '.join(charts)}")
        with default_style():
            return charts[name][1]()

    def _charts(self) -> dict[str, tuple[str, Callable[[], Figure]]]:
        """Name -> what the picture shows, and how it is drawn."""
        data, schema, palette = self._dataset, self._dataset.schema, self._palette
        robot = usable_robot(data.metadata)
        charts: dict[str, tuple[str, Callable[[], Figure]]] = {
            "timeline": (
                "What each environment did, step by step",
                lambda: timeline_figure(Timeline.of(data), robot, palette),
            ),
            "lengths": (
                "Lengths of trajectories, by how they ended",
                lambda: lengths_figure(data.trajectories, robot, palette),
            ),
        }
        if MOTION_ID in data:
            charts["motions"] = (
                "Motions: failures, tracking, recorded frames",
                lambda: motions_figure(data, self._statistics, robot, palette),
            )
        if data.num_envs > 1:
            charts["environments"] = (
                "Environments against each other",
                lambda: environments_figure(data, self._statistics, palette),
            )
        if any(name in data and not schema[name].has_axes for name in ACTIONS):
            charts["actions"] = (
                "Histogram of each action",
                lambda: actions_figure(self._statistics, palette),
            )
        if SIGMA in data:
            charts["sigma"] = (
                "Sigma: how much the policy explores",
                lambda: sigma_figure(self._statistics, palette),
            )
        for field in schema.fields:
            name, is_vector = field.name, bool(field.row_shape) and not field.has_axes
            if field.is_float and is_vector and name not in (*ACTIONS, MEAN, SIGMA):
                charts[f"bands-{name}"] = (
                    f"Values of {name}",
                    partial(self._bands, name, robot),
                )
            if is_image(field):
                charts[f"images-{name}"] = (
                    f"Images of {name}, over the recording",
                    partial(images_figure, data, name, palette),
                )
        if (one := self._trajectory) is not None:
            charts["trajectory"] = (
                f"Trajectory {one.id}, step by step",
                lambda: curves_figure(data, one, robot, palette),
            )
        if recorded_pace(data.metadata) is not None:
            charts["pace"] = (
                "Speed of the recording, and stalls",
                lambda: pace_figure(data, palette),
            )
        return charts

    def _bands(self, field: str, robot: Robot) -> Figure:
        return bands_figure(self._statistics.fields[field], robot, self._palette)

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
