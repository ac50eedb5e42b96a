"""A store in object storage, read over HTTP by zarr-python, xarray and tensorstore."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect import TrajectoryDataset
from tests.conformance.cases import CASES, Case
from tests.helpers import assert_same

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
xarray = pytest.importorskip("xarray", reason="xarray is not installed")
ts = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")

Read = Callable[[str, str], Any]  # store, field -> all its values


def by_us(url: str, field: str) -> Any:
    return TrajectoryDataset(url).read(field)


def their_store(url: str) -> Any:
    store = obstore.from_url(url, client_options={"allow_http": True})
    return zarr.storage.ObjectStore(store, read_only=True)


def by_zarr(url: str, field: str) -> Any:
    return zarr.open_group(their_store(url), mode="r", zarr_format=3)[field][...]


def by_zarr_array(url: str, field: str) -> Any:
    return zarr.open_array(their_store(f"{url}/{field}"), mode="r")[...]


def by_to_zarr(url: str, field: str) -> Any:
    return TrajectoryDataset(url).to_zarr()[field][...]


def by_xarray(url: str, field: str) -> Any:
    with xarray.open_dataset(their_store(url), engine="zarr") as dataset:
        return dataset[field].values


def by_to_xarray(url: str, field: str) -> Any:
    return TrajectoryDataset(url).to_xarray()[field].values


def by_tensorstore(url: str, field: str) -> Any:
    bucket, _, path = url.removeprefix("s3://").partition("/")
    kvstore = {
        "driver": "s3",
        "bucket": bucket,
        "path": f"{path}/{field}/",
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
        "aws_region": os.environ["AWS_REGION"],
        "aws_credentials": {"type": "environment"},
    }
    spec = {"driver": "zarr3", "kvstore": kvstore}
    return ts.open(spec, read=True).result().read().result()


READERS: list[Read] = [
    by_us,
    by_zarr,
    by_zarr_array,
    by_to_zarr,
    by_xarray,
    by_to_xarray,
    by_tensorstore,
]


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_every_reader_sees_every_bit(s3: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.write(s3, monkeypatch)
    for read in READERS:
        for name, want in case.holds().items():
            assert_same(read(s3, name), want, f"{name} by {read.__name__}")
