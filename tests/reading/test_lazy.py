"""Lazy arrays against numpy: any basic index gives the same values, shape and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mosaic_collect import TrajectoryDataset
from mosaic_collect.errors import InputError
from mosaic_collect.reading.lazy import LazyArray
from mosaic_collect.store.shard import ShardReader
from mosaic_collect.store.view import cuts
from tests.helpers import CAMERA, assert_same, expected, open_writer, record, rows

N, T = 7, 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    """One store for all indices: several blocks, chunks and padding."""
    path = tmp_path_factory.mktemp("lazy") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 100)
        with open_writer(path, N, block_steps=4) as writer:
            for step in range(T):
                writer.add_step(**rows(step, N), valid_mask=np.arange(N) % 2 == step % 2)
    dataset = TrajectoryDataset(path, threads=1)
    grid = dataset.state.grid("observations")
    assert grid.chunks > 1
    assert grid.padded_envs > N
    assert T % grid.block_steps
    return dataset


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    """The same for images, whose chunks hold two steps of one environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", 60)
        path = tmp_path_factory.mktemp("lazy") / "c.zarr"
        return record(path, T, num_envs=3, schema=CAMERA, block_steps=4)


WANT = {
    "observations": expected(range(T), N)["observations"],
    "valid_mask": np.stack([np.arange(N) % 2 == s % 2 for s in range(T)]),
    "rgb": expected(range(T), 3, CAMERA)["rgb"],
}


@pytest.fixture(scope="module")
def lazy(request: pytest.FixtureRequest) -> LazyArray:
    """The field of ``WANT`` that a test names."""
    dataset = request.getfixturevalue("camera" if request.param == "rgb" else "store")
    return dataset[request.param]


def part(length: int) -> st.SearchStrategy[Any]:
    """A position or a slice along an axis, in range or beyond."""
    near = st.integers(-length - 3, length + 3)
    step = st.none() | st.integers(-length - 1, length + 1).filter(bool)
    position = st.integers(-length, length - 1)
    return (
        position
        | position.map(np.int32)
        | st.builds(slice, st.none() | near, st.none() | near, step)
        | st.just(slice(None))
    )


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """A basic index of up to as many parts, with or without an ellipsis."""
    count = draw(st.integers(0, len(shape)))
    dots = draw(st.none() | st.integers(0, count))
    lengths = list(shape[:count])
    if dots is not None and dots < count:
        lengths[dots:] = shape[len(shape) - (count - dots) :]
    parts: list[Any] = [draw(part(n)) for n in lengths]
    if dots is not None:
        parts.insert(dots, Ellipsis)
    if len(parts) == 1 and draw(st.booleans()):
        return parts[0]
    return tuple(parts)


@pytest.mark.parametrize(("lazy", "name"), [(n, n) for n in WANT], indirect=["lazy"])
@given(data=st.data())
def test_any_basic_index(lazy: LazyArray, name: str, data: st.DataObject) -> None:
    index, want = data.draw(indices(WANT[name].shape)), WANT[name]
    assert_same(lazy[index], np.asarray(want[index]), repr(index))


@pytest.mark.parametrize(
    ("lazy", "index"),
    [
        *(
            ("observations", i)
            for i in (T, -T - 1, (0, N), (0, -N - 1), (0, 0, 3), (..., 5), 10**30)
        ),
        *(("rgb", i) for i in ((0, 0, 4), (0, 0, 0, -4), (..., 2))),
    ],
    indirect=["lazy"],
)
def test_positions_out_of_range(lazy: LazyArray, index: Any) -> None:
    with pytest.raises(IndexError):
        lazy[index]


@pytest.mark.parametrize(
    "index",
    [
        [0, 1],
        np.array([0, 1]),
        np.array([True] * T),
        True,
        np.True_,
        1.0,
        "observations",
        (0, [1]),
        (0, 0, np.array([0])),
        (0, 0, True),
        None,
        (0, 0, 0, 0),
        (..., ...),
    ],
    ids=repr,
)
@pytest.mark.parametrize("lazy", ["observations"], indirect=True)
def test_other_indices_are_refused_in_words(lazy: LazyArray, index: Any) -> None:
    with pytest.raises(InputError, match=r"index (.|\n)*expected"):
        lazy[index]


def test_numpy_takes_it_as_an_array(store: TrajectoryDataset) -> None:
    lazy, want = store["observations"], WANT["observations"]
    assert_same(np.asarray(lazy), want)
    assert np.asarray(lazy, dtype=np.float64).dtype == np.float64
    assert_same(np.mean(lazy, axis=0), want.mean(axis=0))
    assert_same(np.stack(list(lazy)), want)
    with pytest.raises(ValueError, match="always a copy"):
        lazy.__array__(copy=False)


def test_torch_takes_it_whole(store: TrajectoryDataset) -> None:
    """And not row by row, as it takes a sequence."""
    torch = pytest.importorskip("torch")
    reads: list[range] = []

    def read(steps: range, envs: range) -> Any:
        reads.append(steps)
        return want[steps.start : steps.stop]

    want = WANT["observations"]
    assert_same(torch.as_tensor(LazyArray(want.shape, want.dtype, read)).numpy(), want)
    assert len(reads) == 1
    for name in ("valid_mask", "observations"):
        assert_same(torch.as_tensor(store[name]).numpy(), WANT[name])
        assert_same(np.from_dlpack(store[name]), WANT[name])
    trajectory = store.trajectories[0]
    assert_same(torch.as_tensor(trajectory["actions"]).numpy(), trajectory["actions"][:])


@given(
    start=st.integers(0, 30),
    count=st.integers(0, 30),
    step=st.integers(1, 9),
    cell=st.integers(1, 9),
)
def test_cuts_cover_a_range_once(start: int, count: int, step: int, cell: int) -> None:
    wanted = range(start, start + count * step, step)
    line = np.arange(400)
    out = np.full(len(wanted), -1)
    cells = []
    for number, inside, place in cuts(wanted, cell):
        assert (out[place] == -1).all()
        out[place] = line[number * cell : (number + 1) * cell][inside]
        cells.append(number)
    assert out.tolist() == list(wanted)
    assert cells == sorted({w // cell for w in wanted})


def test_a_lazy_array_asks_for_no_more_than_needed() -> None:
    asked = []

    def read(steps: range, envs: range) -> Any:
        asked.append((steps, envs))
        return np.zeros((len(steps), len(envs), 3))

    lazy = LazyArray((T, N, 3), "float64", read)
    lazy[-1]
    lazy[::-3, 2:5]
    lazy[4:2]
    lazy[..., 0]
    assert asked == [
        (range(9, 10), range(N)),
        (range(0, T, 3), range(2, 5)),
        (range(4, 4), range(N)),
        (range(T), range(N)),
    ]


def test_one_image_is_one_chunk(camera: TrajectoryDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = camera.state.grid("rgb")
    assert (grid.block_steps, grid.chunk_steps, grid.chunks) == (4, 2, 6)
    decoded: list[int] = []
    read = ShardReader.read

    def noting(self: Any, chunk: int, out: Any) -> None:
        decoded.append(chunk)
        read(self, chunk, out)

    monkeypatch.setattr(ShardReader, "read", noting)
    assert_same(camera["rgb"][7, 1], WANT["rgb"][7, 1])
    assert decoded == [4]
    decoded.clear()
    assert_same(camera["rgb"][1:9:3, 2, ..., 0], WANT["rgb"][1:9:3, 2, ..., 0])
    assert sorted(decoded) == [2, 2, 5], "threads take them in any order"
    decoded.clear()
    assert camera["rgb"][3:3].shape == (0, 3, 4, 3, 2)
    assert decoded == []
