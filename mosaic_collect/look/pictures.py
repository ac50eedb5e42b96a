"""All pictures of a store by their names, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mosaic_collect.errors import InputError
from mosaic_collect.look.canvas import LIGHT, Palette, default_style
from mosaic_collect.look.charts import (
    environments_figure,
    lengths_figure,
    pace_figure,
    recorded_pace,
    timeline_figure,
)
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.look.motions import motions_figure, worst_trajectories
from mosaic_collect.look.statistics import ACTIONS, MEAN, SIGMA, StoreStatistics
from mosaic_collect.look.values import (
    actions_figure,
    bands_figure,
    curves_figure,
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
        self.dataset, self.palette = dataset, palette
        self._measure = statistics or partial(store_statistics, dataset, max_pairs=_MOST_PAIRS)
        one = _typical(dataset) if trajectory is None else dataset.trajectory(trajectory)
        self._charts = {name: chart for name, *chart in _charts(dataset, one)}

    def __repr__(self) -> str:
        return f"<Pictures of {self.dataset.path}: {', '.join(self.names)}>"

    @cached_property
    def statistics(self) -> StoreStatistics:
        """What was measured of the store."""
        return self._measure()

    @cached_property
    def robot(self) -> Robot:
        """The robot, as far as the store describes one."""
        return usable_robot(self.dataset.metadata)

    def unit_of(self, *names: str) -> str:
        """Unit of the first of some terms and fields that has one, or an empty text."""
        return next((self.robot.units[n] for n in names if n in self.robot.units), "")

    def step_words(self, word: str = "step") -> str:
        """Name of an axis of steps, with their duration where it is known."""
        return f"{word} of {self.robot.control_dt:g} s" if self.robot.control_dt else word

    @property
    def names(self) -> dict[str, str]:
        """Pictures that this store has: name -> what it shows, in words."""
        return {name: title for name, (title, *_) in self._charts.items()}

    def draw(self, name: str) -> Figure:
        """One picture.

        Raises:
            InputError: This store has no such picture.
            MissingDependencyError: matplotlib is not installed.
            CorruptStoreError: A damaged chunk.
        """
        if name not in self._charts:
            raise InputError(f"picture {name!r}: this store has {', '.join(self._charts)}")
        _, draw, *arguments = self._charts[name]
        with default_style(self.palette):
            figure: Figure = draw(self, *arguments)
        return figure


def _charts(data: TrajectoryDataset, one: Trajectory | None) -> Iterator[tuple[Any, ...]]:
    """Yield name, what the picture shows, its function, and what that takes besides pictures."""
    yield "timeline", "What each environment did, step by step", timeline_figure
    yield "lengths", "Lengths of trajectories, by how they ended", lengths_figure
    if MOTION_ID in data:
        yield "motions", "Motions: failures, tracking, recorded frames", motions_figure
    if data.num_envs > 1:
        yield "environments", "Environments against each other", environments_figure
    if any(name in data and not data.schema[name].has_axes for name in ACTIONS):
        yield "actions", "Histogram of each action", actions_figure
    if SIGMA in data:
        yield "sigma", "Sigma: how much the policy explores", sigma_figure
    for field in data.schema.fields:
        name, is_vector = field.name, bool(field.row_shape) and not field.has_axes
        if field.is_float and is_vector and name not in (*ACTIONS, MEAN, SIGMA):
            yield f"bands-{name}", f"Values of {name}", bands_figure, name
        if is_image(field):
            yield f"images-{name}", f"Images of {name}, over the recording", images_figure, name
    if one is not None:
        yield "trajectory", f"Trajectory {one.id}, step by step", curves_figure, one
    if recorded_pace(data.metadata) is not None:
        yield "pace", "Speed of the recording, and stalls", pace_figure


def _typical(dataset: TrajectoryDataset) -> Trajectory | None:
    """The worst trajectory; without failures the longest that ended, or else any."""
    for number in worst_trajectories(dataset, 1):
        return dataset.trajectory(number)
    table = dataset.where(min_valid=1, max_steps=_MOST_STEPS)
    table = table.where(end=OVER) or table
    return table[int(table.columns["num_steps"].argmax())] if len(table) else None
