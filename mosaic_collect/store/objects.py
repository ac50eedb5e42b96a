"""``Blobs`` in an object store: S3, Google Cloud Storage, Azure, and what speaks like them.

An object is put as a whole or not at all, so there are no temp names and nothing to sync. There are
no locks either: each put is conditional. It makes an object that must not be there yet, or replaces
one that must be the very one that this writer put. If neither holds, the object is looked at, then
the root document, and only if that is still this writer's the object that was looked at is
replaced. In this order: who came since has replaced the root document first, so its objects are
other ones than that, and the put is refused. A request that arrives late, after its writer gave it
up or died, is refused alike. Nothing is ever removed, since a removal has no condition.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import ChangedError, Pending, Version
from mosaic_collect.store.object_io import ObjectBlob, ObjectUpload, version_of
from mosaic_collect.store.service import Service
from mosaic_collect.store.workers import WorkerPool

#: Puts at a time; more would be slower one by one, and each takes its shard's memory.
_UPLOADS = 4
#: Of what this writer put, whose tags are kept: what it may put again.
_MOST_TAGS = 1024
#: Times that a put looks at who was there before it.
_MOST_LOOKS = 8
#: Makes another tag of the same form: etags are hexadecimal, Google's versions decimal.
_OTHER_DIGITS = str.maketrans("0123456789abcdefABCDEF", "1234567890bcdefaBCDEFA")


class ObjectBlobs:
    """The blobs of a store under a prefix of a bucket.

    Args:
        service: To ask.
        reopen: Makes these blobs again in another process, with its arguments.
    """

    links, guards = False, True

    def __init__(self, service: Service, reopen: tuple[Any, ...]) -> None:
        self.address, self._service, self._reopen = service.address, service, reopen
        self._pool: WorkerPool | None = None
        self._require_ours: Callable[[], None] = lambda: None
        self._tags: dict[str, str] = {}
        self._tagging = threading.Lock()
        self._under_way: list[Future[None]] = []
        self._conditions_hold = False

    def __reduce__(self) -> Any:
        return self._reopen

    def within(self, name: str) -> ObjectBlobs:
        reopen, arguments = self._reopen
        if arguments != (self.address,):
            raise InputError(f"{self.address}: expected a URL for a folder of ranks, got an object")
        found: ObjectBlobs = reopen(f"{self.address}/{name}")
        return found

    def place(self) -> str | None:
        return self.address

    def is_there(self) -> bool:
        return self.is_taken()

    def is_taken(self) -> bool:
        import obstore

        def first(store: Any) -> Any:
            return next(iter(obstore.list(store, chunk_size=1)), None)

        return bool(self._service.ask("list", "", first))

    def make(self) -> None:
        """Prefixes need no making."""

    def check_folders(self, names: Iterable[str]) -> None:
        """There are no links."""

    def make_folders(self, names: Iterable[str]) -> None:
        """Nor folders."""

    def names(self, folder: str = "") -> list[str]:
        found = self._listed(folder)
        paths = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted(_name(path) for path in paths)

    def is_debris(self, name: str) -> bool:
        return False

    def find(self, key: str) -> Version | None:
        import obstore

        try:
            return version_of(self._service.ask("read", key, obstore.head, key))
        except FileNotFoundError:
            return None

    def versions(self, folder: str) -> dict[str, Version]:
        return {_name(o["path"]): version_of(o) for o in self._listed(folder)["objects"]}

    def open(self, key: str) -> ObjectBlob:
        return ObjectBlob(self._service, f"{self.address}/{key}", key)

    def upload(self, key: str) -> ObjectUpload:
        return ObjectUpload(f"{self.address}/{key}", partial(self.send, key))

    def alias(self, source: str, key: str) -> Pending:
        raise OSError(errno.ENOTSUP, "an object has one name", f"{self.address}/{key}")

    def put(self, documents: Mapping[str, bytes]) -> None:
        for future in [self._start(self._put, *document) for document in documents.items()]:
            future.result()

    def create(self, key: str, data: bytes) -> bool:
        try:
            self.replace(key, data, None)
        except ChangedError:
            return False
        return True

    def replace(self, key: str, data: bytes, over: Version | None) -> Version:
        try:
            found = self._put_over(key, data, None if over is None else over.tag)
        except ChangedError:
            # The answer to a first try may have been lost, and the second found it done.
            with contextlib.suppress(FileNotFoundError):
                blob = self.open(key)
                if blob.nbytes == len(data) and blob.read(0, len(data)) == data:
                    return blob.version
            raise
        if not self._conditions_hold:
            self._require_conditions(key, data, found.tag)
        return found

    def _require_conditions(self, key: str, data: bytes, tag: str) -> None:
        """Make sure that the service refuses to make what is there, and to replace what is not.

        Some services accept such conditions and ignore one or both: two writers would overwrite
        each other. Asked once per writer, of a key that holds this data.
        """
        for wrong in (None, tag.translate(_OTHER_DIGITS)):
            with contextlib.suppress(ChangedError):
                if wrong != tag:
                    self._put_over(key, data, wrong)
                raise OSError(
                    errno.ENOTSUP, "this service pays no heed to conditions of writes", self.address
                )
        self._conditions_hold = True

    def require_place(self) -> None:
        """A prefix is what its root document says."""

    def settle(self, folders: Iterable[str]) -> None:
        started, self._under_way = self._under_way, []
        for future in started:
            future.result()

    def remove(self, keys: Iterable[str]) -> None:
        """Nothing, as said above."""

    def claim(self, require_ours: Callable[[], None]) -> ObjectClaim:
        self._require_ours = require_ours
        self._pool = WorkerPool(_UPLOADS, "mosaic-upload")
        self._pool.begin()  # at the interpreter's exit no thread can be started any more
        return ObjectClaim(self._pool)

    def is_claimed(self) -> bool | None:
        return None  # a claim there is a condition of each write, and leaves nothing to look at

    def for_zarr(self) -> Any:
        from zarr.storage import ObjectStore

        return ObjectStore(self._service.store, read_only=True)

    def free_nbytes(self) -> int | None:
        return None

    def send(self, key: str, data: Any, done: Callable[[], None]) -> None:
        """Begin a put; ``settle`` waits for it. Then, or when it failed, ``done`` is called."""
        future = self._start(self._put, key, data)
        future.add_done_callback(lambda _: done())  # also of one that is cancelled
        self._under_way.append(future)

    def _start(self, call: Callable[..., None], *args: Any) -> Future[None]:
        assert self._pool is not None, "claim comes before writes"
        return self._pool.submit(call, *args)

    def _put(self, key: str, data: Any) -> None:
        tag = self._tags.get(key)
        for _ in range(_MOST_LOOKS):
            try:
                self._remember(key, self._put_over(key, data, tag).tag)
            except ChangedError:
                there = self.find(key)
                self._require_ours()
                tag = None if there is None else there.tag
            else:
                return
        raise OSError(errno.EBUSY, "others keep writing here", f"{self.address}/{key}")

    def _put_over(self, key: str, data: Any, tag: str | None) -> Version:
        """Put what must not be there, or replace what has the tag; else a ChangedError."""
        import obstore

        mode = "create" if tag is None else _update(tag)
        try:
            found = self._service.ask(
                "write", key, obstore.put, key, data, mode=mode, use_multipart=False
            )
        except FileNotFoundError:
            raise ChangedError(f"{self.address}/{key}") from None
        return version_of({**found, "size": len(data)})

    def _remember(self, key: str, tag: str) -> None:
        with self._tagging:
            self._tags.pop(key, None)
            self._tags[key] = tag
            if len(self._tags) > _MOST_TAGS:
                del self._tags[next(iter(self._tags))]

    def _listed(self, folder: str) -> Any:
        import obstore

        return self._service.ask("list", folder, obstore.list_with_delimiter, folder or None)


class ObjectClaim:
    """The right to write, which another writer's later one ends."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def release(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _update(tag: str) -> dict[str, str]:
    e_tag, version = tag.split("\n")
    return {k: v for k, v in (("e_tag", e_tag), ("version", version)) if v}
