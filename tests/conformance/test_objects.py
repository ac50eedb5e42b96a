"""A store in object storage, read over HTTP by zarr-python, xarray and tensorstore."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.conformance import test_readers as readers
from tests.conformance.cases import CASES, Case
from tests.conformance.test_readers import Read
from tests.helpers import assert_same

zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
ts = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")


def their_store(url: str) -> Any:
    store = obstore.from_url(url, client_options={"allow_http": True})
    return zarr.storage.ObjectStore(store, read_only=True)


def by_zarr_array(url: str, field: str) -> Any:
    return zarr.open_array(their_store(f"{url}/{field}"), mode="r")[...]


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
    *(readers.by_us, readers.by_to_zarr, readers.by_to_xarray, by_zarr_array, by_tensorstore),
    lambda url, field: readers.by_zarr(their_store(url), field),
    lambda url, field: readers.by_xarray(their_store(url), field),
]


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_every_reader_sees_every_bit(s3: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.write(s3, monkeypatch)
    for read in READERS:
        for name, want in case.holds().items():
            assert_same(read(s3, name), want, name)
