"""Stores read identically by zarr-python, xarray, dask, tensorstore and zarrs; warnings fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.store.codec import COMPRESSORS
from tests.conformance.cases import CASES, Case
from tests.helpers import CAMERA, assert_same

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
xarray = pytest.importorskip("xarray", reason="xarray is not installed")
dask = pytest.importorskip("dask", reason="dask is not installed")
ts = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
zarrs = pytest.importorskip("zarrs", reason="zarrs is not installed")

Read = Callable[[Any, str], Any]  # store, field -> all its values


def by_zarr(store: Any, field: str) -> Any:
    return zarr.open_group(store, mode="r", zarr_format=3)[field][...]


def by_zarr_array(store: str, field: str) -> Any:
    """The array alone, by its own document."""
    return zarr.open_array(os.path.join(store, field), mode="r")[...]


def by_to_zarr(store: str, field: str) -> Any:
    return TrajectoryDataset(store).to_zarr()[field][...]


def by_xarray(store: Any, field: str) -> Any:
    with xarray.open_dataset(store, engine="zarr") as dataset:
        return dataset[field].values


def by_to_xarray(store: str, field: str) -> Any:
    return TrajectoryDataset(store).to_xarray()[field].values


def by_dask(store: str, field: str) -> Any:
    with xarray.open_zarr(store) as dataset, dask.config.set(scheduler="synchronous"):
        assert isinstance(dataset[field].data, dask.array.Array)
        return dataset[field].data.compute()


def by_tensorstore(store: str, field: str) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": os.path.join(store, field)}}
    return ts.open(spec, read=True).result().read().result()


def by_zarrs(store: str, field: str) -> Any:
    pipeline = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    with zarr.config.set(pipeline):
        array = zarr.open_group(store, mode="r", zarr_format=3)[field]
        used = array._async_array.codec_pipeline
        # Strict and without a fallback, the values can only come from Rust.
        assert type(used) is zarrs.ZarrsCodecPipeline
        assert used.impl is not None
        assert used.python_impl is None
        return array[...]


def by_us(store: str, field: str) -> Any:
    return TrajectoryDataset(store).read(field)


READERS: list[Read] = [
    by_us,
    by_zarr,
    by_zarr_array,
    by_to_zarr,
    by_xarray,
    by_to_xarray,
    by_dask,
    by_tensorstore,
    by_zarrs,
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def written(request: Any, tmp_path_factory: Any) -> tuple[str, Case]:
    """One store of the matrix, read by all."""
    path = str(tmp_path_factory.mktemp("case") / "s.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        request.param.write(path, patch)
    return path, request.param


@pytest.mark.parametrize("read", READERS)
def test_every_reader_sees_every_bit(written: tuple[str, Case], read: Read) -> None:
    path, case = written
    for name, want in case.holds().items():
        assert_same(read(path, name), want, name)


def test_the_matrix_is_one(written: tuple[str, Case]) -> None:
    """The cases are what their parameters say, whatever the planner makes of them."""
    path, case = written
    state = TrajectoryDataset(path).state
    assert (state.committed_steps, state.num_envs) == (case.steps, case.num_envs)
    if case.chunk_nbytes < 1000:
        assert any(g.chunks > 1 for g in state.grids().values())
        cut = [g.field.name for g in state.grids().values() if g.chunk_steps < g.block_steps]
        assert cut == [f.name for f in case.schema.fields if f.has_axes]
    else:
        assert state.block_steps == case.block_steps


def test_partial_reads_agree(written: tuple[str, Case]) -> None:
    path, case = written
    if case.steps < 2:
        return
    group = zarr.open_group(path, mode="r")
    dataset = TrajectoryDataset(path)
    for name, want in case.holds().items():
        part = (slice(1, case.steps), slice(0, None, 2))
        assert_same(group[name][part], want[part], name)
        assert_same(dataset[name][part], want[part], name)


def test_partial_reads_of_images_agree(written: tuple[str, Case]) -> None:
    path, case = written
    if case.schema is not CAMERA:
        return
    group, dataset, want = zarr.open_group(path, mode="r"), TrajectoryDataset(path), case.holds()
    part = (slice(1, None, 2), 1, slice(None), slice(0, 2), -1)
    assert_same(group["rgb"][part], want["rgb"][part])
    assert_same(dataset["rgb"][part], want["rgb"][part])
    with xarray.open_dataset(path, engine="zarr") as lazy:
        assert lazy["rgb"].dims == ("step", "env", "rgb_dim_0", "rgb_dim_1", "rgb_dim_2")
        picked = lazy["rgb"].isel(step=-1, rgb_dim_2=0)
        assert_same(picked.values, want["rgb"][-1, ..., 0])


def test_some_case_cuts_the_steps_of_images() -> None:
    cut = [c for c in CASES if c.schema is CAMERA and c.chunk_nbytes < 100]
    assert {c.compressor for c in cut} == {"auto", "lz4", "none"}


def test_some_case_has_padding() -> None:
    """Else the matrix would prove too little."""
    assert any(c.num_envs % 2 and c.chunk_nbytes < 1000 for c in CASES)
    assert any(c.steps % c.block_steps for c in CASES)
    assert {c.compressor for c in CASES} == {*COMPRESSORS}
