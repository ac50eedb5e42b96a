"""What a step may give: values that are kept bit for bit, and those that are refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import DTYPES
from tests.helpers import (
    ALL_DTYPES,
    CAMERA,
    add,
    assert_holds,
    assert_same,
    expected,
    mask,
    open_writer,
    rows,
)

N = 4
IMAGE = Field(name="rgb", dim=(4, 3, 2), dtype="uint8")
SCHEMA = Schema.mosaic(3, 2, extra=(Field(name="phase", dtype="int32"), IMAGE))
F32 = np.float32


def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed; arrays are tested without")


def made(kind: str, array: np.ndarray) -> Any:
    """The array, or a tensor in its memory."""
    return array if kind == "arrays" else torch().from_numpy(array)


# -- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("block_steps", [1, 2, 5])
def test_the_caller_overwrites_its_memory_at_once(store: str, block_steps: int, kind: str) -> None:
    arrays = {**rows(0, N, ALL_DTYPES), "valid_mask": np.ones(N, bool)}
    buffers = {name: made(kind, value) for name, value in arrays.items()}
    with open_writer(store, N, ALL_DTYPES, block_steps=block_steps) as writer:
        for step in range(7):
            for name, value in {**rows(step, N, ALL_DTYPES), "valid_mask": mask(step, N)}.items():
                arrays[name][...] = value
            writer.add_step(**buffers)
            for array in arrays.values():
                array[...] = 0
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(7))
    assert_same(dataset.read("valid_mask"), np.stack([mask(s, N) for s in range(7)]))


def test_arrays_and_tensors_may_be_mixed(store: str) -> None:
    with open_writer(store, N) as writer:
        add(writer, 0)
        given = {name: made("tensors", value) for name, value in rows(1, N).items()}
        writer.add_step(**given, valid_mask=made("tensors", mask(1, N)))
        mixed = {
            **rows(2, N),
            "actions": given["actions"].copy_(made("tensors", rows(2, N)["actions"])),
        }
        writer.add_step(**mixed, valid_mask=mask(2, N))
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(3))
    want = np.stack([np.ones(N, bool), mask(1, N), mask(2, N)])
    assert_same(dataset.read("valid_mask"), want)


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backward": lambda a: a[::-1].copy()[::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read only": read_only,
    "NaN and infinity": lambda a: np.where(
        np.arange(N)[:, None] == 2, F32(-np.inf), a * F32(np.nan)
    ),
    "watched by autograd": lambda a: made("tensors", a).requires_grad_(),
    "transposed": lambda a: made("tensors", a).t().contiguous().t(),
    "every other": lambda a: made("tensors", a).repeat_interleave(2, dim=1)[:, ::2],
    "expanded": lambda a: made("tensors", a)[:1].expand(N, -1),
}
IMAGE_LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "fortran": np.asfortranarray,
    "channels last": lambda a: made("tensors", a).contiguous(memory_format=torch().channels_last),
    "transposed": lambda a: made("tensors", a).mT.contiguous().mT,
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [*(("joints", k) for k in LAYOUTS), *(("rgb", k) for k in IMAGE_LAYOUTS)],
)
def test_any_memory_layout_is_copied_right(
    store: str, monkeypatch: pytest.MonkeyPatch, name: str, layout: str
) -> None:
    """Also where a block has several chunks a row."""
    monkeypatch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 80)
    laid_out, want = (LAYOUTS if name == "joints" else IMAGE_LAYOUTS)[layout], []
    with open_writer(store, N, CAMERA, block_steps=6) as writer:
        for step in range(7):
            given: dict[str, Any] = rows(step, N, CAMERA)
            given[name] = laid_out(given[name])
            value = given[name]
            want.append(
                np.array(value if isinstance(value, np.ndarray) else value.detach().numpy())
            )
            writer.add_step(**given)
    assert_same(TrajectoryDataset(store).read(name), np.stack(want))


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("float32", np.float64),
        ("float32", np.float16),
        ("float64", np.float32),
        ("float16", np.float32),
        ("float32", ">f8"),
        ("int32", np.int16),
        ("int64", ">i4"),
        ("uint16", np.uint8),
        ("float32", "torch.float64"),
        ("float32", "torch.float16"),
        ("float32", "torch.bfloat16"),
    ],
)
def test_what_fits_is_cast(store: str, stored: str, given: Any) -> None:
    schema = Schema((Field(name="a", dim=2, dtype=stored),))
    want = np.arange(2 * N).reshape(N, 2)
    if str(given).startswith("torch."):
        value = made("tensors", want).to(getattr(torch(), given.removeprefix("torch.")))
    else:
        value = want.astype(given)
    with open_writer(store, N, schema) as writer:
        writer.add_step(a=value)
    assert_same(TrajectoryDataset(store).read("a")[0], want.astype(stored))


def test_the_list_of_dtypes_is_all_that_torch_and_numpy_share() -> None:
    assert all(hasattr(torch(), name) for name in DTYPES)


# -- what is refused -----------------------------------------------------------------------------


def assert_refused(store: str, name: str, value: Any, words: str) -> None:
    """The value is named, and leaves no trace."""
    with open_writer(store, N, SCHEMA) as writer:
        add(writer, 0)
        with pytest.raises(InputError, match=words):
            writer.add_step(**{**rows(99, N, SCHEMA), name: value})
        assert writer.num_steps == 1
        add(writer, 1)
    dataset = TrajectoryDataset(store)
    assert_holds(dataset, range(2))
    assert dataset.num_valid == 2 * N
    assert not dataset.state.has_mask


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("observations", np.zeros((N, 4), F32), r"observations: expected shape \(4, 3\), got \(4, 4\)"),
    ("observations", np.zeros((5, 3), F32), r"observations: expected shape \(4, 3\), got \(5, 3\)"),
    ("observations", np.zeros((3,), F32), r"observations: expected shape \(4, 3\), got \(3,\)"),
    ("observations", np.zeros((1, N, 3), F32), r"expected shape \(4, 3\), got \(1, 4, 3\)"),
    ("observations", np.zeros((1, 3), F32), r"expected shape \(4, 3\), got \(1, 3\)"),
    ("phase", np.zeros((N, 1), np.int32), r"phase: expected shape \(4,\), got \(4, 1\)"),
    ("rgb", np.zeros((N, 2, 3, 4), np.uint8), r"rgb: expected shape \(4, 4, 3, 2\), got \(4, 2, 3"),
    ("rgb", np.zeros((N, 24), np.uint8), r"rgb: expected shape \(4, 4, 3, 2\), got \(4, 24\)"),
    ("rgb", np.zeros((N, 4, 3, 2), F32), "rgb: expected dtype uint8, got float32"),
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
    ("trajectory_end", np.zeros(N, np.uint8), r"said by end_trajectories\(env_ids, failed\)"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_named(store: str, name: str, value: Any, words: str) -> None:
    assert_refused(store, name, value, words)


@pytest.mark.parametrize(
    ("name", "stored", "given"),
    [
        ("phase", "int32", "int64"),
        ("phase", "int32", "float32"),
        ("phase", "int32", "bfloat16"),
        ("actions", "float32", "int32"),
        ("actions", "float32", "bool"),
        ("actions", "float32", "complex64"),
        ("valid_mask", "bool", "uint8"),
    ],
)
def test_a_tensor_of_another_kind_is_named(store: str, name: str, stored: str, given: str) -> None:
    value = torch().zeros((N, 2) if name == "actions" else N, dtype=getattr(torch(), given))
    assert_refused(store, name, value, f"{name}: expected dtype {stored}, got {given}")


#: A kind's words, and a maker of a value of any shape and dtype.
ODD: dict[str, Callable[[Any], Any]] = {
    "a meta tensor": lambda t: t.to("meta"),
    "a sparse tensor": lambda t: t.to_sparse(),
    "a nested tensor": lambda t: torch().nested.nested_tensor(list(t)),
    "a masked array": lambda t: np.ma.masked_array(t.numpy(), mask=False),
    "a quantized tensor": lambda t: torch().quantize_per_tensor(t * 1.0, 1.0, 0, torch().quint8),
}


def odd(words: str, *shape: int, flags: bool = False) -> Any:
    """A tensor or array whose values cannot be read."""
    ones = torch().ones(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that these are young, or old
        return ODD[words](ones > 0 if flags else ones)


@pytest.mark.parametrize("words", ODD)
def test_values_that_cannot_be_read_are_named(store: str, words: str) -> None:
    assert_refused(store, "observations", odd(words, N, 3), f"observations: .* values, got {words}")
    flags, words_of = odd(words, N, flags=True), f"valid_mask: expected .* values, got {words}"
    assert_refused(f"{store}.2", "valid_mask", flags, words_of)


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("name", ["env_ids", "failed", "dones", "time_outs"])
def test_environments_that_cannot_be_read_are_named(store: str, words: str, name: str) -> None:
    given = {"failed": {"env_ids": range(N)}, "time_outs": {"dones": np.ones(N, bool)}}
    with open_writer(store, N, SCHEMA.with_ends()) as writer:
        add(writer, 0)
        with pytest.raises(InputError, match=f"^{name}: expected .*, got {words}"):
            writer.end_trajectories(**{**given.get(name, {}), name: odd(words, N, flags=True)})
    assert TrajectoryDataset(store).num_ended == 0


@pytest.mark.parametrize("words", ODD)
def test_mosaics_class_names_them_too(store: str, words: str) -> None:
    torch()
    from mosaic_collect import ExpertTrajectoryCollector

    collector = ExpertTrajectoryCollector(3, 2, store=store, buffer_mb=1)
    step, flags = (torch().zeros(N, 3), torch().zeros(N, 2)), odd(words, N, flags=True)
    with pytest.raises(InputError, match=f"valid_mask: .*{words}"):
        collector.add_step(*step, valid_mask=flags)
    collector.add_step(*step)
    with pytest.raises(InputError, match=f"env_ids: .*{words}"):
        collector.mark_trajectory_end(env_ids=flags)
    assert collector.num_trajectories == 0
    collector.close()


def test_all_problems_of_a_step_come_together_and_a_bad_first_one_settles_nothing(
    store: str,
) -> None:
    """Not even which optional fields are given."""
    with open_writer(store, N, SCHEMA) as writer:
        with pytest.raises(InputError) as caught:
            writer.add_step(
                actions=np.zeros((N, 9), np.int64),
                action_mean=np.zeros((N, 2), F32),
                reward=np.zeros(N),
                phase=3,
                valid_mask=np.ones(N + 1, bool),
            )
        for part in (
            "observations: expected on every step, got none",
            "actions: expected shape",
            "actions: expected dtype",
            "reward: unknown",
            "phase: expected a torch tensor",
            "valid_mask: expected shape",
        ):
            assert part in str(caught.value)
        bad = {**rows(0, N, SCHEMA), "observations": np.zeros((N, 9), F32)}
        with pytest.raises(InputError):
            writer.add_step(**bad, valid_mask=np.ones(N, bool))
        writer.commit()
        assert TrajectoryDataset(store).state.given == {}
        writer.add_step(**without(rows(0, N, SCHEMA), "action_mean", "action_sigma"))
    assert TrajectoryDataset(store).num_steps == 1
    assert not TrajectoryDataset(store).state.has_mask


# -- fields with a default, and the mask ---------------------------------------------------------


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize(
    "left_out", [("action_mean", "action_sigma"), ("action_mean",), ("action_sigma",)]
)
def test_each_optional_field_decides_for_itself(store: str, left_out: tuple[str, ...]) -> None:
    with open_writer(store, N) as writer:
        for number in range(5):
            writer.add_step(**without(rows(number, N), *left_out))
    dataset, want = TrajectoryDataset(store), expected(range(5), N)
    stands_in = {"action_mean": want["actions"], "action_sigma": np.full((5, N, 2), 0.01, F32)}
    for name, value in stands_in.items():
        assert_same(dataset.read(name), value if name in left_out else want[name], name)
    assert dataset.state.given == {name: name not in left_out for name in stands_in}


@pytest.mark.parametrize("field", ["action_mean", "action_sigma"])
@pytest.mark.parametrize("first", ["given", "left out", "None"])
@pytest.mark.parametrize("resumed", [True, False])
def test_a_later_difference_is_an_error(store: str, field: str, first: str, resumed: bool) -> None:
    """None is as if it was left out; a store of zero steps has not decided."""

    def step(number: int, how: str) -> dict[str, Any]:
        given = without(rows(number, N), *([field] if how != "given" else []))
        return {**given, field: None} if how == "None" else given

    open_writer(store, N).close()
    writer = open_writer(store, N, resume=True)
    writer.add_step(**step(0, first))
    if resumed:
        writer.close()
        writer = TrajectoryWriter(store, resume=True)
    words = "none, as the first step.*got a value"
    words = "a value on every step.*got none" if first == "given" else words
    with writer:
        with pytest.raises(InputError, match=f"{field}: expected {words}"):
            writer.add_step(**step(1, "left out" if first == "given" else "given"))
        assert writer.num_steps == 1
        writer.add_step(**step(1, first))
    want = expected(range(2), N)["observations"]
    assert_same(TrajectoryDataset(store).read("observations"), want)


def test_defaults_of_extra_fields(store: str) -> None:
    """Numbers, NumPy's among them, and other fields."""
    extra = (
        Field(name="reward", default=-1.5),
        Field(name="phase", dim=2, dtype="int16", default=7),
        Field(name="seen", dim=3, default="observations"),
        Field(name="image", dim=(2, 3), default=0.5),
        Field(name="single", dim=np.int64(2), default=F32(0.5)),
        Field(name="double", default=np.float64(0.5)),
    )
    with open_writer(store, N, Schema.mosaic(3, 2, extra=extra)) as writer:
        for step in range(2):
            writer.add_step(**rows(step, N))
    dataset = TrajectoryDataset(store)
    assert_same(dataset.read("reward"), np.full((2, N), -1.5, F32))
    assert_same(dataset.read("phase"), np.full((2, N, 2), 7, np.int16))
    assert_same(dataset.read("seen"), expected(range(2), N)["observations"])
    for name in ("image", "single", "double"):
        assert_same(dataset.read(name), np.full((2, N, *dataset.schema[name].row_shape), F32(0.5)))


def test_the_mask_may_come_and_go(store: str) -> None:
    """Within a run, and with a resume before each step."""
    open_writer(store, N).close()
    writer = open_writer(store, N, resume=True)
    for number in range(7):
        if number > 3:
            writer.close()
            assert TrajectoryDataset(store).state.has_mask
            writer = TrajectoryWriter(store, resume=True)
        given = {"valid_mask": mask(number, N)} if number % 3 == 1 else {}
        writer.add_step(**rows(number, N), **given)
        if number == 0:
            writer.commit()
            assert not TrajectoryDataset(store).state.has_mask
    writer.close()
    dataset = TrajectoryDataset(store)
    want = np.stack([mask(s, N) if s % 3 == 1 else np.ones(N, bool) for s in range(7)])
    assert_same(dataset.read("valid_mask"), want)
    assert dataset.num_valid == want.sum()
