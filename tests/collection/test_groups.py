"""Observation groups that are not flat: recorded where the policy reads them, and given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mosaic_collect import Field, Schema, TrajectoryDataset  # noqa: E402
from mosaic_collect.collection.groups import check_recorded  # noqa: E402
from mosaic_collect.collection.protocols import Observations, PolicyOutput  # noqa: E402
from mosaic_collect.errors import InputError, StoreMismatchError  # noqa: E402
from mosaic_collect.reading.verify import verify_store  # noqa: E402
from mosaic_collect.replay.check import replay_check  # noqa: E402
from tests.collection import toys  # noqa: E402

EPISODES = ((5, 2, 4), (3, 3), (6,), ())
SHAPE = (3, 8, 6)


class Seeing(toys.ToySimulation):
    """With groups that are not flat, in buffers that are overwritten like all others.

    Args:
        dtype: Of the images.
    """

    def __init__(self, dtype: torch.dtype = torch.uint8, **images: tuple[int, ...]) -> None:
        super().__init__(EPISODES)
        shapes = {"camera": SHAPE, **images}
        self._images = {n: torch.zeros(4, *s, dtype=dtype) for n, s in shapes.items()}
        self._frames = 0

    def _observe(self) -> Observations:
        self._frames += 1
        for number, buffer in enumerate(self._images.values()):
            values = torch.arange(buffer.numel()).reshape(buffer.shape)
            buffer.copy_((values * 7 + 31 * self._frames + 5 * number) % 251)
        flat = super()._observe()
        terms = {"a": torch.zeros(4, 2), "b": torch.zeros(4, 3)}  # not put side by side
        return {**flat, **self._images, "terms": terms}  # type: ignore[dict-item]


class Looking(toys.ToyPolicy):
    """Its mean depends on every pixel and on where it is."""

    def __init__(self, *reads: str, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self.images: list[torch.Tensor] = []
        self._reads = reads or ("policy", "camera", "extra")
        self.shapes = {n: shape if n == "camera" else (toys.GROUPS[n],) for n in self._reads}

    def act(self, observations: Observations) -> PolicyOutput:
        flat = {n: observations.get(n, torch.zeros(4, w)) for n, w in toys.GROUPS.items()}
        output = super().act({n: v if n in self._reads else v * 0 for n, v in flat.items()})
        image = observations["camera"]
        self.images.append(image.clone())
        weights = torch.linspace(0.1, 1, image[0].numel()).reshape(image.shape[1:])
        output.mean[:, 0] += (image.float() * weights).flatten(1).mean(1)
        return output


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_a_group_that_the_policy_reads_is_a_field_of_its_own(store: str, dtype: str) -> None:
    simulation, policy = Seeing(getattr(torch, dtype)), Looking()
    data = toys.collected(store, simulation, policy)
    field = data.schema["observations_camera"]
    assert (field.dim, field.dtype) == (SHAPE, dtype)
    images = data.read("observations_camera")
    assert images.dtype == dtype
    assert np.array_equal(images, torch.stack(policy.images).numpy())
    assert data.schema["observations"].dim == toys.OBS_DIM
    assert np.array_equal(data.read("observations"), torch.stack(policy.seen).numpy())
    assert data.metadata["groups"] == {"policy": 3, "camera": list(SHAPE), "extra": 1}
    assert list(data.metadata["groups"]) == ["policy", "camera", "extra"]
    assert (simulation.resets, data.num_steps) == (1, 11)
    assert verify_store(store).ok


def test_what_the_policy_does_not_read_is_not_recorded(store: str) -> None:
    simulation = Seeing(other=(2, 4, 4), scalar=())
    data = toys.collected(store, simulation, toys.ToyPolicy())
    assert data.schema == toys.SCHEMA
    assert data.metadata["groups"] == toys.GROUPS
    assert replay_check(store, toys.ToyPolicy(), toys.GROUPS).ok


def test_a_policy_that_sees_nothing_but_images(store: str) -> None:
    data = toys.collected(store, Seeing(), Looking("camera"))
    assert "observations" not in data
    assert data.metadata["groups"] == {"camera": list(SHAPE)}
    assert replay_check(store, Looking("camera"), {"camera": SHAPE}).ok


def test_the_replay_gives_the_images_back(store: str) -> None:
    toys.collected(store, Seeing(), Looking())
    groups = {"policy": 3, "camera": SHAPE, "extra": 1}
    policy = Looking()
    report = replay_check(store, policy, groups)
    assert (report.ok, report.rows, report.largest_mean) == (True, 23, 0.0)
    assert policy.images[0].dtype == torch.uint8

    class Blind(Looking):
        def act(self, observations: Observations) -> PolicyOutput:
            dark: Mapping[str, torch.Tensor] = {
                **observations,
                "camera": observations["camera"].clone().index_fill_(1, torch.tensor([2]), 0),
            }
            return super().act(dark)

    assert replay_check(store, Blind(), groups).rows_off == 23


def test_a_students_images_are_recorded_as_its_observations(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.ToySimulation, "group_dims", toys.GROUPS)
    simulation = Seeing(student=(2, 5))
    data = toys.collected(store, simulation, Looking())
    field = data.schema["student_observations"]
    assert (field.dim, field.dtype) == ((2, 5), "uint8")
    assert data.read("student_observations").any()


def test_such_a_collection_is_gone_on_with(store: str) -> None:
    toys.collected(store, Seeing(), Looking(), max_steps=4)
    assert toys.collected(store, Seeing(), Looking(), resume=True, max_steps=7).num_steps == 7
    assert replay_check(store, Looking(), {"policy": 3, "camera": SHAPE, "extra": 1}).ok
    with pytest.raises(StoreMismatchError, match=r"observations_camera: .*uint8.*float32"):
        toys.collected(store, Seeing(torch.float32), Looking(), resume=True, max_steps=9)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 6, 8), r"'camera'; expected rows of \(3, 6, 8\), got \(3, 8, 6\); there are"),
        ((144,), r"'camera'; expected rows of \(144,\), got \(3, 8, 6\)"),
    ],
)
def test_images_of_another_shape_are_refused_before_the_store_is_made(
    store: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        toys.collected(store, Seeing(), Looking(shape=shape))
    with pytest.raises(FileNotFoundError):
        TrajectoryDataset(store)


def test_terms_that_are_not_side_by_side_are_refused_if_they_are_read(store: str) -> None:
    policy = toys.ToyPolicy()
    policy.shapes = {**policy.shapes, "terms": (2, 3)}
    with pytest.raises(InputError, match=r"'terms'; expected rows of \(2, 3\), got none such"):
        toys.collected(store, Seeing(), policy)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"policy": 4}, None),
        ({"policy": 4, "camera": (2, 3)}, None),
        ({"camera": (2, 3)}, "add up to 4"),
        ({"policy": 3, "camera": (2, 3)}, "add up to 4"),
        ({"policy": 4, "camera": (3, 2)}, r"observations_camera: expected rows of \(3, 2\), got"),
        ({"policy": 4, "depth": (2, 3)}, "observations_depth: .*got no such field"),
    ],
)
def test_groups_are_held_against_the_store(groups: Any, words: str | None) -> None:
    camera = Field(name="observations_camera", dim=(2, 3))
    schema = Schema((Field(name="observations", dim=4), camera))
    if words is None:
        check_recorded(schema, groups)
        return
    with pytest.raises(InputError, match=words):
        check_recorded(schema, groups)
