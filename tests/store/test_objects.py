"""Blobs in an object store: what is visible when, and who is refused; in memory and by HTTP."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter, export_npy
from mosaic_collect.errors import CorruptStoreError, StoreLostError, WriteError
from mosaic_collect.store.blobs import ChangedError, ReplacedError, read_all
from mosaic_collect.store.objects import ObjectBlobs, blobs_in
from mosaic_collect.store.ranks import blobs_at
from tests.helpers import SMALL, buffer_mb, record, run_python
from tests.service import Proxy

obstore = pytest.importorskip("obstore")
from obstore.store import MemoryStore  # noqa: E402

LARGE = bytes(range(256)) * 1024  # more than is read when a blob is opened


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Any:
    """Where a store may lie."""
    return MemoryStore() if request.param == "memory" else request.getfixturevalue("s3")


def claimed(place: Any, require_ours: Callable[[], None] = lambda: None) -> ObjectBlobs:
    """Another writer's."""
    found = blobs_at(place)
    assert isinstance(found, ObjectBlobs)
    found.claim(require_ours)
    return found


def send(blobs: ObjectBlobs, key: str, *pieces: bytes) -> None:
    upload = blobs.upload(key)
    for piece in pieces:
        upload.write([piece])
    upload.finish()
    blobs.settle([])


def test_an_upload_is_there_when_it_is_settled_and_not_before(place: Any) -> None:
    blobs = claimed(place)
    upload = blobs.upload("x/c.0.0")
    upload.write([b"one", memoryview(b"two")])
    upload.write([b"three"])
    assert blobs.find("x/c.0.0") is None
    assert upload.nbytes == len("onetwothree")
    upload.finish()
    blobs.settle([])
    assert read_all(blobs, "x/c.0.0", 100) == b"onetwothree"
    blobs.remove(["x/c.0.0"])
    assert blobs.find("x/c.0.0") is not None, "nothing is ever removed"


def test_an_upload_that_is_abandoned_was_never_there(place: Any) -> None:
    blobs = claimed(place)
    upload = blobs.upload("x/c.0.0")
    upload.write([b"one"])
    upload.abandon()
    upload.abandon()
    blobs.settle([])
    assert not blobs.is_taken()


def test_names_and_versions_are_those_of_one_folder(place: Any) -> None:
    blobs = claimed(place)
    assert (blobs.names(), blobs.names("x"), blobs.is_there()) == ([], [], False)
    blobs.put({"zarr.json": b"1", "x/zarr.json": b"22", "x/c.0": b"333", "y/c.0": b"4"})
    assert blobs.names() == ["x", "y", "zarr.json"]
    assert blobs.names("x") == ["c.0", "zarr.json"]
    assert {n: v.nbytes for n, v in blobs.versions("x").items()} == {"c.0": 3, "zarr.json": 2}
    assert blobs.versions("x")["c.0"] == blobs.find("x/c.0")
    assert blobs.is_there()
    assert blobs.is_taken()


def test_a_blob_is_read_in_ranges(place: Any) -> None:
    blobs = claimed(place)
    send(blobs, "x", LARGE)
    blob = blobs.open("x")
    assert blob.nbytes == len(LARGE)
    for start, nbytes in ((0, 10), (65530, 12), (65536, 1), (len(LARGE) - 3, 9), (len(LARGE), 4)):
        assert blob.read(start, nbytes) == LARGE[start : start + nbytes]
    with pytest.raises(FileNotFoundError, match="/none"):
        blobs.open("none")
    blobs.put({"zarr.json": b""})
    assert read_all(blobs, "zarr.json", 100) == b""
    with pytest.raises(CorruptStoreError):
        TrajectoryDataset(blobs)


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match", "both", "no etags"])
def test_a_service_that_ignores_conditions_is_refused(ignored: str) -> None:
    class Careless(ObjectBlobs):
        def ask(self, request: str, key: str, call: Any, *args: Any, **options: Any) -> Any:
            condition = "If-None-Match" if options.get("mode") == "create" else "If-Match"
            if "mode" in options and ignored in (condition, "both"):
                options["mode"] = "overwrite"
            found = super().ask(request, key, call, *args, **options)
            return {**found, "e_tag": None} if "mode" in options and "tags" in ignored else found

    memory = MemoryStore()
    record(memory, 1)
    with pytest.raises(WriteError, match="no heed to conditions"):
        TrajectoryWriter(Careless(memory, "s3://b/run"), resume=True)
    assert TrajectoryDataset(memory).num_steps == 1
    with pytest.raises(WriteError, match="no heed to conditions"):
        TrajectoryWriter(Careless(MemoryStore(), "s3://b/run"), SMALL, 2)


def test_conditions_are_tested_once_per_writer(s3: str, s3_server: tuple[str, int]) -> None:
    """By two requests that are refused, and change nothing."""
    with Proxy(s3_server) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        blobs = claimed(s3)
        version = blobs.replace("zarr.json", b"one", None)
        assert [method for method, *_ in proxy.log] == ["PUT"] * 3
        assert blobs.find("zarr.json") == version
        proxy.log.clear()
        blobs.replace("zarr.json", b"two", version)
        assert len(proxy.log) == 1


def test_opening_a_store_makes_one_request(s3: str, s3_server: tuple[str, int], npy: str) -> None:
    """Of its root document."""
    stores = [f"{s3}/a.zarr", f"{s3}/b.zarr"]
    for store in stores:
        record(store, 1)
    with Proxy(s3_server) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)

        def requests(call: Callable[[], object]) -> list[str]:
            proxy.log.clear()
            call()
            return [path.partition("?")[0].rpartition("/")[2] for _, path, _ in proxy.log]

        assert requests(lambda: TrajectoryDataset(stores[0])) == ["zarr.json"]
        assert requests(lambda: TrajectoryDataset(stores)) == ["zarr.json"] * 2
        dataset = TrajectoryDataset(stores[0])
        assert requests(dataset.refresh) == ["zarr.json"]
        assert requests(lambda: export_npy(stores, npy)).count("zarr.json") == 2


def test_what_was_replaced_is_never_read_as_one_of_both(place: Any) -> None:
    blobs = claimed(place)
    send(blobs, "x", LARGE)
    blob, small = blobs.open("x"), blobs.open("x")
    send(blobs, "x", LARGE[::-1])
    with pytest.raises(ReplacedError):
        blob.read(100_000, 10)
    assert small.read(0, 10) == LARGE[:10]  # of what it was when it was opened
    assert read_all(blobs, "x", len(LARGE)) == LARGE[::-1]


def test_a_document_is_replaced_only_over_what_was_seen(place: Any) -> None:
    first, second = claimed(place), claimed(place)
    one = first.replace("zarr.json", b"one", None)
    with pytest.raises(ChangedError):
        second.replace("zarr.json", b"other", None)
    two = second.replace("zarr.json", b"two", second.find("zarr.json"))
    with pytest.raises(ChangedError):
        first.replace("zarr.json", b"three", one)
    assert read_all(first, "zarr.json", 10) == b"two"
    assert first.find("zarr.json") == two
    # An answer that was lost: it is there already.
    assert first.replace("zarr.json", b"two", one) == two


def test_what_another_put_is_replaced_only_by_who_owns_the_store(place: Any) -> None:
    looks: list[str] = []
    send(claimed(place), "x", b"debris")
    owner = claimed(place, lambda: looks.append("owner"))
    send(owner, "x", b"mine")
    assert looks == ["owner"]
    send(owner, "x", b"mine, grown")
    assert looks == ["owner"]  # nobody came in between, so nobody was asked

    def lost() -> None:
        raise StoreLostError("another writer went on with it")

    late = claimed(place, lost)
    with pytest.raises(StoreLostError):
        send(late, "x", b"late")
    with pytest.raises(StoreLostError):
        late.put({"x": b"late"})
    assert read_all(owner, "x", 100) == b"mine, grown"


def test_who_came_since_is_not_replaced_by_who_looked_before(place: Any) -> None:
    """The object is looked at first, then the root document: never the other way round."""
    send(claimed(place), "x", b"debris")
    other = claimed(place)

    def somebody_comes() -> None:
        if read_all(other, "x", 100) == b"debris":
            send(other, "x", b"of the new owner")
        else:
            raise StoreLostError("another writer went on with it")

    with pytest.raises(StoreLostError):
        send(claimed(place, somebody_comes), "x", b"late")
    assert read_all(other, "x", 100) == b"of the new owner"
    count = iter(range(1, 100))
    others_keep_writing = claimed(place, lambda: send(other, "x", str(next(count)).encode()))
    with pytest.raises(OSError, match="others keep writing"):
        send(others_keep_writing, "x", b"late")


def test_a_failure_is_told_by_settle_and_names_the_place(place: Any) -> None:
    class Failing(ObjectBlobs):
        def ask(self, request: str, key: str, call: Any, *args: Any, **options: Any) -> Any:
            raise OSError(5, "the request failed", f"{self.address}/{key}")

    blobs = Failing(None, "s3://b/run")
    blobs.claim(lambda: None)
    upload = blobs.upload("x")
    upload.write([b"1"])
    upload.finish()
    with pytest.raises(OSError, match="s3://b/run/x"):
        blobs.settle([])
    blobs.settle([])  # it was told


def test_tags_are_kept_of_so_many_objects_only(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaic_collect.store.objects._MOST_TAGS", 2)
    blobs = claimed(place)
    for key in ("a", "b", "c", "a", "b"):
        send(blobs, key, b"1")
    assert list(blobs._tags) == ["a", "b"]


def test_they_pickle_as_what_leads_to_them(s3: str) -> None:
    from obstore.store import S3Store, from_url

    claimed(s3).put({"x": b"1"})
    given = blobs_in(from_url(s3, client_options={"allow_http": True}))
    assert isinstance(given._store, S3Store)
    for blobs in (blobs_at(s3), given):
        again = pickle.loads(pickle.dumps(blobs))
        assert again.address == s3
        assert read_all(again, "x", 10) == b"1"


FORK = """
import os
from mosaic_collect.store.ranks import blobs_at
blobs = blobs_at({url!r})
print(blobs.names())
process = os.fork()
if not process:
    try:
        blobs.names()
    except OSError as error:
        os.write(1, str(error).encode())
    os._exit(0)
os.waitpid(process, 0)
"""


def test_a_fork_is_refused_and_does_not_wait_for_ever(s3: str) -> None:
    done = run_python(FORK.format(url=s3))
    assert "cannot be used here: start it by spawn" in done.stdout, done


WIDE = Schema((Field(name="x", dim=20_000),))


def open_wide(place: Any) -> TrajectoryWriter:
    options = {"compressor": "none", "commit_seconds": None, "buffer_mb": buffer_mb(4, 2, WIDE)}
    return TrajectoryWriter(place, WIDE, 2, **options)


def test_a_block_that_grows_is_read_of_one_content(place: Any) -> None:
    rows = np.random.default_rng(1).standard_normal((3, 2, 20_000)).astype(np.float32)
    with open_wide(place) as writer:
        for step, values in enumerate(rows):
            writer.add_step(x=values)
            writer.commit()
            if not step:
                view = TrajectoryDataset(place).view.parts[0]
                shard = view.shard("x", 0)
                shards = [view.shard("x", 0) for _ in range(3)]
        out = np.empty(view.grids["x"].chunk_shape, np.float32)
        shard.read(0, out)
        assert (out[0, 0] == rows[0, 0]).all()
        assert len(shards[0].whole()) == len(shard.whole())
    assert (TrajectoryDataset(place)["x"][:] == rows).all()


def test_a_shard_that_became_another_store_s_is_refused(place: Any) -> None:
    key, other = "x/c.0.0.0", MemoryStore()
    for where in (place, other):
        with open_wide(where) as writer:
            writer.add_step(x=np.ones((2, 20_000), np.float32))
    view = TrajectoryDataset(place).view.parts[0]
    shard, out = view.shard("x", 0), np.empty(view.grids["x"].chunk_shape, np.float32)
    claimed(place).put({key: read_all(blobs_at(other), key, 10**7)})
    with pytest.raises(CorruptStoreError, match="belongs to another recording"):
        shard.read(0, out)
