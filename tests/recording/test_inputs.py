"""What ``add_step`` refuses: each error names field, expected and got, and nothing is staged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import InputError
from mosaic_collect.recording.inputs import env_indices
from tests.helpers import SMALL, add, assert_holds, open_writer, rows

N = 4
SCHEMA = Schema.mosaic(3, 2, extra=(Field(name="phase", dtype="int32"),))
F32 = np.float32

BAD_VALUES: list[tuple[str, Any, str]] = [
    ("observations", np.zeros((N, 4), F32), r"observations: expected shape \(4, 3\), got \(4, 4\)"),
    ("observations", np.zeros((5, 3), F32), r"observations: expected shape \(4, 3\), got \(5, 3\)"),
    ("observations", np.zeros((3,), F32), r"observations: expected shape \(4, 3\), got \(3,\)"),
    ("observations", np.zeros((1, N, 3), F32), r"expected shape \(4, 3\), got \(1, 4, 3\)"),
    ("observations", np.zeros((1, 3), F32), r"expected shape \(4, 3\), got \(1, 3\)"),
    ("phase", np.zeros((N, 1), np.int32), r"phase: expected shape \(4,\), got \(4, 1\)"),
    ("actions", np.zeros((N, 2), np.int32), "actions: expected dtype float32, got int32"),
    ("actions", np.zeros((N, 2), bool), "actions: expected dtype float32, got bool"),
    ("actions", np.zeros((N, 2), complex), "actions: expected dtype float32, got complex128"),
    ("actions", np.zeros((N, 2), object), "actions: expected dtype float32, got object"),
    ("actions", np.zeros((N, 2), "U3"), "actions: expected dtype float32, got <U3"),
    ("actions", np.zeros((N, 2), [("x", F32)]), "actions: expected dtype float32"),
    ("phase", np.zeros(N, np.int64), "phase: expected dtype int32, got int64"),
    ("phase", np.zeros(N, np.uint32), "phase: expected dtype int32, got uint32"),
    ("phase", np.zeros(N, F32), "phase: expected dtype int32, got float32"),
    ("actions", [[0.0, 0.0]] * N, "actions: expected a torch tensor or NumPy array, got list"),
    ("actions", 0.0, "actions: expected a torch tensor or NumPy array, got float"),
    ("actions", "text", "actions: expected a torch tensor or NumPy array, got str"),
    ("actions", None, "actions: expected on every step, got none"),
    ("valid_mask", np.ones(N + 1, bool), r"valid_mask: expected shape \(4,\), got \(5,\)"),
    ("valid_mask", np.ones((N, 1), bool), r"valid_mask: expected shape \(4,\), got \(4, 1\)"),
    ("valid_mask", np.ones(N, np.uint8), "valid_mask: expected dtype bool, got uint8"),
    ("valid_mask", [True] * N, "valid_mask: expected a torch tensor or NumPy array, got list"),
    ("valid_mask", True, "valid_mask: expected a torch tensor or NumPy array, got bool"),
    ("reward", np.zeros(N, F32), "reward: unknown field; the fields are: observations, actions"),
    ("trajectory_id", np.zeros(N, np.int64), "trajectory_id: unknown field"),
]


@pytest.fixture
def writer(store: str) -> Iterator[TrajectoryWriter]:
    with open_writer(store, N, SCHEMA) as writer:
        yield writer


@pytest.mark.parametrize(("field", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_named_and_leaves_no_trace(
    writer: TrajectoryWriter, store: str, field: str, value: Any, words: str
) -> None:
    add(writer, 0)
    with pytest.raises(InputError, match=words):
        writer.add_step(**{**rows(99, N, SCHEMA), field: value})
    assert writer.num_steps == 1
    add(writer, 1)
    writer.close()
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(2))
    assert dataset.num_valid == 2 * N
    assert not dataset.state.has_mask


def test_a_bad_first_step_settles_nothing(writer: TrajectoryWriter, store: str) -> None:
    """Not even which optional fields are given."""
    bad = {**rows(0, N, SCHEMA), "observations": np.zeros((N, 9), F32)}
    with pytest.raises(InputError):
        writer.add_step(**bad, valid_mask=np.ones(N, bool))
    writer.commit()
    assert TrajectoryDataset(store).state.given == {}
    writer.add_step(**{k: v for k, v in rows(0, N, SCHEMA).items() if not k.startswith("action_")})
    writer.close()
    assert TrajectoryDataset(store).num_steps == 1
    assert not TrajectoryDataset(store).state.has_mask


def test_all_problems_of_a_step_come_together(writer: TrajectoryWriter) -> None:
    with pytest.raises(InputError) as caught:
        writer.add_step(
            actions=np.zeros((N, 9), np.int64),
            reward=np.zeros(N),
            phase=3,
            valid_mask=np.ones(N + 1, bool),
        )
    message = str(caught.value)
    for part in (
        "observations: expected on every step",
        "actions: expected shape",
        "actions: expected dtype",
        "reward: unknown",
        "phase: expected a torch tensor",
        "valid_mask: expected shape",
    ):
        assert part in message


def test_a_missing_field_is_named(writer: TrajectoryWriter) -> None:
    step = rows(0, N, SCHEMA)
    del step["phase"]
    with pytest.raises(InputError, match="phase: expected on every step, got none"):
        writer.add_step(**step)
    assert writer.num_steps == 0


CASTS = [
    ("float32", np.float64),
    ("float32", np.float16),
    ("float64", np.float32),
    ("float16", np.float32),
    ("float32", ">f8"),
    ("int32", np.int16),
    ("int64", ">i4"),
    ("uint16", np.uint8),
]


@pytest.mark.parametrize(("stored", "given"), CASTS)
def test_what_fits_is_cast(store: str, stored: str, given: Any) -> None:
    schema = Schema((Field(name="a", dim=2, dtype=stored),))
    value = np.arange(2 * N).reshape(N, 2).astype(given)
    with open_writer(store, N, schema) as writer:
        writer.add_step(a=value)
    np.testing.assert_array_equal(TrajectoryDataset(store).read("a")[0], value)


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
    ids=["fortran", "strided", "backward", "broadcast"],
)
def test_any_memory_layout_is_copied_right(store: str, layout: Any) -> None:
    step = rows(0, N)
    step["observations"] = layout(step["observations"])
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    np.testing.assert_array_equal(
        TrajectoryDataset(store).read("observations")[0], step["observations"]
    )


def test_read_only_arrays_are_taken(store: str) -> None:
    step = rows(0, N)
    for value in step.values():
        value.setflags(write=False)
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    assert_holds(TrajectoryDataset(store), range(1))


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ([], []),
        ([2], [2]),
        (1, [1]),
        (np.int32(3), [3]),
        ([3, 1], [1, 3]),
        (np.array([0, 2], np.uint8), [0, 2]),
        (np.array([[1], [2]]), [1, 2]),
        (np.array([True, False, False, True]), [0, 3]),
        ([True, False, True, False], [0, 2]),
        (range(4), [0, 1, 2, 3]),
        (np.zeros(N, bool), []),
    ],
)
def test_env_ids(given: Any, want: list[int]) -> None:
    got = env_indices(given, N)
    assert got.dtype == np.int64
    assert got.tolist() == want


@pytest.mark.parametrize(
    ("num_envs", "flags"),
    [(1, [0]), (1, [1]), (2, [0, 1]), (2, [1, 0]), (2, [0, 0]), (3, [1, 0, 0])],
)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("argument", ["env_ids", "failed"])
def test_flags_of_a_whole_number_type_end_no_trajectory(
    store: str, num_envs: int, flags: list[int], dtype: str, argument: str
) -> None:
    """rsl_rl's dones are int64: of one or two environments they could be ids."""
    torch = pytest.importorskip("torch")
    array = np.array(flags, dtype)
    with open_writer(store, num_envs, SMALL.with_ends()) as writer:
        given_rows = {n: v for n, v in rows(0, num_envs).items() if n in writer.schema.names}
        writer.add_step(**given_rows)
        for value in (array, torch.from_numpy(array), array[:, None]):
            given = {"env_ids": np.ones(num_envs, bool), argument: value}
            with pytest.raises(InputError, match=f"{argument}: .* flags of all environments must"):
                writer.end_trajectories(**given)
        writer.end_trajectories(dones=array, time_outs=array)
    assert TrajectoryDataset(store).num_ended == sum(flags)


def test_a_list_or_a_number_is_ids(store: str) -> None:
    with open_writer(store, 2) as writer:
        for step, ids in enumerate(([0, 1], (1, 0), range(2), 0, np.int64(1))):
            add(writer, step)
            writer.end_trajectories(ids)
    assert TrajectoryDataset(store).num_ended == 8


def test_nan_is_stored_as_it_is(store: str) -> None:
    step = rows(0, N)
    step["observations"][1, 2] = np.nan
    step["observations"][2, 0] = -np.inf
    with open_writer(store, N) as writer:
        writer.add_step(**step)
    got = TrajectoryDataset(store).read("observations")[0]
    np.testing.assert_array_equal(got, step["observations"])
