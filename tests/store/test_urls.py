"""URLs and store objects: each mistake has a message of its own."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mosaic_collect as mc
from mosaic_collect.errors import InputError, MissingDependencyError, WriteError
from mosaic_collect.reading.summary import stored_nbytes
from mosaic_collect.store.objects import SERVICES, ObjectBlobs
from mosaic_collect.store.ranks import blobs_at
from tests import helpers, service

pytest.importorskip("obstore")
from obstore.store import (
    AzureStore,
    GCSStore,
    HTTPStore,
    LocalStore,
    MemoryStore,
    S3Store,
)

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/run.zarr", r"expected a path, or a URL with s3://, gs://, az://"),
        *((url, r"expected s3://BUCKET/NAME") for url in ("s3://", "s3:///run.zarr")),
        ("az://box/run.zarr", r"az://box/run.zarr cannot be opened: .*Account"),  # has none
    ],
)
def test_a_url_that_cannot_be_opened_is_refused(url: str, said: str) -> None:
    for call in (mc.TrajectoryDataset, mc.verify_store, blobs_at):
        with pytest.raises(InputError, match=f"^path: {said}"):
            call(url)


@pytest.mark.parametrize(
    "url",
    [
        *(f"s3://bucket/{name}" for name in ("run#1.zarr", "run?seed=1", "ru\tn", "ru\nn", "run ")),
        *(f"s3://bucket/{name}" for name in ("ru\x7fn", "run%231", "a%2Frun", "a/%2e%2e/run")),
        *(f"s3://bucket/{name}" for name in ("a/../run", "./run", "a//run")),
        *(f"s3://{name}/run" for name in ("user@bucket", "user:secret@bucket", "bucket:80")),
        *("s3://b\u00fccket/run", "gs://bucket/run#1", "az://box/run#1"),
    ],
)
def test_a_url_that_leads_to_another_place_is_refused(
    url: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    for call in (
        mc.TrajectoryDataset,
        mc.verify_store,
        lambda path: mc.TrajectoryWriter(path, helpers.SMALL, 2, resume="auto"),
    ):
        with pytest.raises(InputError, match=r"^path: .*(leads to|cannot be opened)") as error:
            call(url)  # type: ignore[no-untyped-call]
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["a b", "\u00e4/x.zarr", "[x]", "x~y", "a:b@c", "=+&;,!$'()"])
def test_other_names_are_kept_as_they_are(s3: str, name: str) -> None:
    with mc.TrajectoryWriter(f"{s3}/{name}", helpers.SMALL, 2, encode_in="threads") as writer:
        helpers.add(writer, 0, 1)
    bucket = blobs_at("s3://bucket")
    assert isinstance(bucket, ObjectBlobs)
    keys = {o["path"] for batch in bucket._store.list() for o in batch}
    assert f"{s3.removeprefix('s3://bucket/')}/{name}/zarr.json" in keys
    assert mc.TrajectoryDataset(f"{s3}/{name}").num_steps == 2


def test_without_obstore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real(name, *args, **options)

    for name in [n for n in sys.modules if n.startswith("obstore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"'mosaic-collect\[objects\]'"):
        mc.TrajectoryDataset("s3://bucket/run.zarr")


@pytest.mark.parametrize(
    ("endpoint", "bucket", "words"),
    [
        (None, "none", "there is no such bucket"),
        (NOWHERE, service.BUCKET, "cannot be reached: is AWS_ENDPOINT_URL"),
    ],
    ids=["bucket", "service"],
)
def test_a_bucket_or_a_service_that_is_not_there(
    s3: str, endpoint: str | None, bucket: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket}/run.zarr"
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(OSError, match=words) as read:
        mc.TrajectoryDataset(url)
    assert read.value.filename.startswith(url)
    with pytest.raises(WriteError, match=words):
        mc.TrajectoryWriter(url, helpers.SMALL, 2)


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in service.CREDENTIALS:
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="no credentials: expected them in the environment"):
        mc.TrajectoryDataset(s3)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")  # and not its other half
    with pytest.raises(InputError, match=r"cannot be opened: .*Missing AccessKeyId"):
        mc.TrajectoryDataset(s3)


def test_credentials_that_are_refused(
    s3: str, s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.Proxy(s3_server, lambda *_: 403) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(
            PermissionError, match=r"to read: they need s3:GetObject, or there is no"
        ):
            mc.TrajectoryDataset(s3)


class TestWithoutListing:
    """Credentials that may get objects and not list them: the usual policy of published data."""

    @pytest.fixture
    def published(self, s3: str) -> str:
        for name in ("expert.zarr", "other.zarr"):
            with mc.TrajectoryWriter(f"{s3}/{name}", helpers.SMALL, 2) as writer:
                helpers.add(writer, *range(6))
        return f"{s3}/expert.zarr"

    @pytest.fixture
    def requests(
        self, published: str, s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[list[Any]]:
        """All that are made, of which listings are refused."""

        def plan(method: str, path: str) -> service.Fault:
            return 403 if "list-type=2" in path else None

        with service.Proxy(s3_server, plan) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            yield proxy.log

    def test_what_reads_needs_none(
        self, published: str, requests: list[Any], npy: str, tmp_path: Path
    ) -> None:
        assert mc.TrajectoryDataset(published)["actions"][:].shape[0] == 6
        assert mc.export_npy(published, npy).num_pairs
        assert mc.verify_export(published, npy).ok
        assert mc.store_statistics(mc.TrajectoryDataset(published)).fields
        assert mc.copy_store(published, tmp_path / "copy.zarr").num_steps == 6
        several = [published, published.rpartition("/")[0] + "/other.zarr"]
        assert mc.TrajectoryDataset(several).num_steps == 12
        assert mc.export_npy(several, npy).num_pairs
        assert {fault for _, _, fault in requests} == {None}

    def test_a_batch_needs_none(self, published: str, requests: list[Any]) -> None:
        pytest.importorskip("torch")
        assert next(iter(mc.BatchLoader(published, 2)))
        assert {fault for _, _, fault in requests} == {None}

    def test_what_lists_names_the_permission(self, published: str, requests: list[Any]) -> None:
        for call in (
            mc.verify_store,
            lambda path: mc.TrajectoryWriter(path, resume=True),
            lambda path: mc.TrajectoryWriter(f"{path}.new", helpers.SMALL, 2),
        ):
            with pytest.raises(OSError, match="to list: they need s3:ListBucket"):
                call(published)  # type: ignore[no-untyped-call]


def test_a_store_of_no_steps_is_no_store(s3: str) -> None:
    with pytest.raises(mc.StoreNotFoundError, match=f"no store at {s3}"):
        mc.TrajectoryDataset(s3)
    with pytest.raises(mc.StoreNotFoundError, match=f"no store at {s3}"):
        mc.TrajectoryWriter(s3, helpers.SMALL, 2, resume=True)


@pytest.mark.parametrize(
    ("store", "address"),
    [
        (S3Store("box", prefix="a/run.zarr"), "s3://box/a/run.zarr"),
        (S3Store("box"), "s3://box"),
        (GCSStore("box", prefix="run.zarr"), "gs://box/run.zarr"),
        (AzureStore("box", account_name="a", prefix="run.zarr"), "az://box/run.zarr"),
    ],
    ids=repr,
)
def test_a_store_object_is_called_like_its_url(store: Any, address: str) -> None:
    assert blobs_at(store).address == address


def test_a_service_may_have_several_schemes(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES, "s3a", SERVICES["s3"])
    url = s3.replace("s3://", "s3a://")
    helpers.record(url, 4)
    assert blobs_at(url).address == url
    assert blobs_at(S3Store("box")).address == "s3://box"
    assert mc.TrajectoryDataset(s3).num_steps == 4


def test_each_memory_is_a_place_of_its_own() -> None:
    one, other = MemoryStore(), MemoryStore()
    assert blobs_at(one).place() == blobs_at(one).place() != blobs_at(other).place()


def test_store_objects_without_conditional_writes_are_refused(tmp_path: Any) -> None:
    for store in (LocalStore(str(tmp_path)), HTTPStore.from_url("http://127.0.0.1:9/run.zarr")):
        with pytest.raises(InputError, match=f"got its {type(store).__name__}"):
            mc.TrajectoryDataset(store)


@pytest.mark.parametrize("encode_in", ["threads", "process"])
def test_equal_fields_are_objects_of_their_own(s3: str, encode_in: str) -> None:
    schema = mc.Schema.mosaic(obs_dim=3, action_dim=2)
    with mc.TrajectoryWriter(s3, schema, 2, encode_in=encode_in) as writer:
        for step in range(3 * writer.block_steps):
            rows = np.full((2, 3), step, np.float32)
            writer.add_step(observations=rows, actions=rows[:, :2])
    assert mc.verify_store(s3).ok
    dataset = mc.TrajectoryDataset(s3)
    assert (dataset["action_mean"][:] == dataset["actions"][:]).all()
    assert all(stored_nbytes(dataset.view).values())
