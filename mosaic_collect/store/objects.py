"""``Blobs`` in an object store: S3, Google Cloud Storage, Azure, and what speaks like them.

An object is put as a whole or not at all, so there are no temp names and nothing to sync. There are
no locks either: each put has a condition, and nothing is removed, since a removal has none. See
docs/durability.md, *In object storage*.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.store.blobs import Blobs, ChangedError, ReplacedError, Version
from mosaic_collect.store.files import write_all
from mosaic_collect.store.workers import WorkerPool
from mosaic_collect.text import shown

_TRIES = 4
#: What errors of obstore say that came of no answer at all, or of half of one.
_UNANSWERED = "HTTP error"
_UNREACHABLE = "tcp connect error|dns error|ConnectError|Connection refused"
_DENIED = "PermissionDenied|Unauthenticated|status code: 403"
#: Per scheme of addresses: obstore's kind of store, what its config calls the bucket, and the
#: permissions that requests need.
SERVICES = {
    "s3": ("S3Store", "bucket", "s3:GetObject", "s3:PutObject", "s3:ListBucket"),
    "gs": (
        *("GCSStore", "bucket", "storage.objects.get"),
        *("storage.objects.create and storage.objects.delete", "storage.objects.list"),
    ),
    "az": ("AzureStore", "container_name", "Read", "Write", "List"),
}
_REQUESTS = ("read", "write", "list")
#: The first of these that an error's name and text hold: an errno, and what to do.
_MEANINGS = (
    (
        "NoSuchBucket|ContainerNotFound|specified bucket does not exist",
        errno.ENXIO,
        "there is no such bucket; make it first, or name another",
    ),
    ("NotFoundError", errno.ENOENT, "no such object"),
    (
        # Where nothing else gives credentials, the metadata service of a cloud's machine is asked.
        r"latest/api/token|metadata\.google|computeMetadata|metadata/identity|Missing AccessKeyId",
        errno.EACCES,
        (
            "no credentials: expected them in the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for s3, GOOGLE_APPLICATION_CREDENTIALS for gs, "
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az), or an obstore store "
            "that has some in place of the URL"
        ),
    ),
    (_DENIED, errno.EACCES, "the service refuses these credentials to {request}"),
    (
        _UNREACHABLE,
        errno.EHOSTUNREACH,
        "the service cannot be reached: is AWS_ENDPOINT_URL, or its like, what it should be",
    ),
    (
        "NotSupportedError|NotImplementedError|status code: 501",
        errno.ENOTSUP,
        "this kind of storage has no conditional writes, which commits need",
    ),
    ("", errno.EIO, "the request failed"),
)


#: Processes in which obstore was used: this one, and one that it is a fork of. Threads of obstore
#: do not come along in a fork, and a request there would wait for ever.
_users: set[int] = set()


def _begin(address: str) -> None:
    _users.add(os.getpid())
    if len(_users) > 1:
        raise OSError(
            errno.ENOTSUP,
            "object storage was used before this process was forked, and cannot be used here: "
            'start it by spawn (multiprocessing_context="spawn" of a DataLoader)',
            address,
        )


def _explained(error: Exception, address: str, request: str, key: str) -> Exception:
    """The error that a failed request becomes, with the service's own words behind."""
    name, text = type(error).__name__, str(error)
    where = f"{address}/{key}" if key else address
    if name in ("AlreadyExistsError", "PreconditionError"):
        return ChangedError(where)
    meant = f"{name}: {text}"
    code, meaning = next(m[1:] for m in _MEANINGS if re.search(m[0], meant, re.I))
    _, _, *permissions = SERVICES.get(address.partition("://")[0], SERVICES["s3"])
    permission = permissions[_REQUESTS.index(request)]
    # Without the permission to list, a missing object is reported as a refusal.
    missing = ", or there is no such object" if request == "read" else ""
    meaning = meaning.format(request=f"{request}: they need {permission}{missing}")
    return OSError(code, f"{meaning} ({_said(text)})", where)


def _said(text: str) -> str:
    """The service's own words, without the document around them."""
    text, _, body = text.partition("\n\nDebug source")[0].partition(": <?xml")
    code = re.search(r"<Code>(\w+)</Code>", body)
    return " ".join([*text.split(), *(code.groups() if code else ())])


#: What opening a blob reads of it: small ones whole, of shards the label.
_HEAD_NBYTES = 64 << 10


class ObjectBlob:
    """An object, opened for reading: a head of it is read at once, the rest in ranges."""

    def __init__(self, blobs: ObjectBlobs, key: str) -> None:
        self._blobs, self._key, self.address = blobs, key, f"{blobs.address}/{key}"
        try:
            self._head, self.version = self._get(range=(0, _HEAD_NBYTES))
        except FileNotFoundError:
            raise
        except OSError:
            # No range can be read of an empty object.
            found = blobs.find(key)
            if found is None or found.nbytes:
                raise
            self._head, self.version = b"", found
        self.nbytes = self.version.nbytes

    def read(self, start: int, nbytes: int) -> bytes:
        end = min(start + nbytes, self.nbytes)
        if end <= len(self._head):
            return self._head[start:end]
        if start >= end:
            return b""
        try:
            return self._get(range=(start, end), if_match=self.version.tag.split("\n")[0])[0]
        except (ChangedError, FileNotFoundError):
            raise ReplacedError(errno.ESTALE, "it was replaced", self.address) from None

    def close(self) -> None:
        """Nothing is held."""

    def _get(self, **options: Any) -> tuple[bytes, Version]:
        import obstore

        def whole(store: Any) -> tuple[bytes, Version]:
            found = obstore.get(store, self._key, options=options)
            return bytes(found.bytes()), version_of(found.meta)

        found: tuple[bytes, Version] = self._blobs.ask("read", self._key, whole)
        return found


class ObjectUpload:
    """An object on its way, in a nameless file in memory that another process may write, too."""

    def __init__(self, blobs: ObjectBlobs, key: str) -> None:
        self._blobs, self._key, self.address = blobs, key, f"{blobs.address}/{key}"
        self._fd = _nameless()
        self.nbytes = 0

    def write(self, buffers: Sequence[Any]) -> None:
        write_all(self._fd, buffers)
        self.nbytes += sum(len(b) for b in buffers)

    def fileno(self) -> int:
        return self._fd

    def finish(self) -> None:
        """Begin to send it; ``settle`` waits."""
        mapped = mmap.mmap(self._fd, self.nbytes, access=mmap.ACCESS_READ)
        self._blobs.send(self._key, memoryview(mapped), self.abandon)

    def abandon(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _nameless() -> int:
    """The descriptor of a new file in memory, or on the disk where the system gives none there."""
    with contextlib.suppress(AttributeError, OSError):  # another system; a sandbox may refuse it
        return os.memfd_create("mosaic_upload", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def version_of(found: Mapping[str, Any]) -> Version:
    """Of what obstore says: Google's tells contents apart by the version, others by the etag."""
    return Version(found["size"], f"{found['e_tag'] or ''}\n{found['version'] or ''}")


#: Puts at a time; more would be slower one by one, and each takes its shard's memory.
_UPLOADS = 4
#: Of what this writer put, whose tags are kept: what it may put again.
_MOST_TAGS = 1024
#: Times that a put looks at who was there before it.
_MOST_LOOKS = 8
#: Makes another tag of the same form: etags are hexadecimal, Google's versions decimal.
_OTHER_DIGITS = str.maketrans("0123456789abcdefABCDEF", "1234567890bcdefaBCDEFA")


class ObjectBlobs(Blobs):
    """The blobs of a store under a prefix of a bucket.

    Args:
        store: The obstore store.
        address: Address of the prefix.
        reopen: Function that makes these blobs in another process, and its arguments.
        first: The same store, less patient: used until it has answered once, so that a wrong
            address is an error in seconds.
    """

    links, guards = False, True

    def __init__(
        self, store: Any, address: str, reopen: tuple[Any, ...] = (), first: Any = None
    ) -> None:
        self.address, self._store, self._reopen, self._first = address, store, reopen, first
        self._pool: WorkerPool | None = None
        self._require_ours: Callable[[], None] = lambda: None
        self._tags: dict[str, str] = {}
        self._tagging = threading.Lock()
        self._under_way: list[Future[None]] = []
        self._conditions_hold = False

    def __reduce__(self) -> Any:
        return self._reopen

    def ask(
        self, request: str, key: str, call: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """Call a function of obstore on the store, for a key or a folder's name.

        The ``request``, "read", "write" or "list", is what credentials must permit.

        Raises:
            FileNotFoundError: There is no such object.
            ChangedError: The object is not, or not any more, what the request says.
            OSError: Anything else; names the place.
        """
        _begin(self.address)
        attempt = 0
        while True:
            attempt += 1
            try:
                found = call(self._first or self._store, *args, **options)
            except Exception as error:
                unanswered = _UNANSWERED in str(error)
                if not unanswered:
                    self._first = None
                if attempt < _TRIES and unanswered and not re.search(_UNREACHABLE, str(error)):
                    continue
                raise _explained(error, self.address, request, key) from error
            self._first = None
            return found

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

        return bool(self.ask("list", "", first))

    def names(self, folder: str = "") -> list[str]:
        found = self._listed(folder)
        paths = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted(_name(path) for path in paths)

    def find(self, key: str) -> Version | None:
        import obstore

        try:
            return version_of(self.ask("read", key, obstore.head, key))
        except FileNotFoundError:
            return None

    def versions(self, folder: str) -> dict[str, Version]:
        return {_name(o["path"]): version_of(o) for o in self._listed(folder)["objects"]}

    def open(self, key: str) -> ObjectBlob:
        return ObjectBlob(self, key)

    def upload(self, key: str, also: Iterable[str] = ()) -> ObjectUpload:
        return ObjectUpload(self, key)

    def put(self, documents: Mapping[str, bytes], synced: bool = True) -> None:
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

        Some services accept such conditions and ignore them: writers would overwrite each other.
        """
        for wrong in (None, tag.translate(_OTHER_DIGITS)):
            with contextlib.suppress(ChangedError):
                if wrong != tag:
                    self._put_over(key, data, wrong)
                raise OSError(
                    errno.ENOTSUP, "this service pays no heed to conditions of writes", self.address
                )
        self._conditions_hold = True

    def settle(self, folders: Iterable[str]) -> None:
        started, self._under_way = self._under_way, []
        for future in started:
            future.result()

    def claim(self, require_ours: Callable[[], None]) -> Callable[[], None]:
        self._require_ours = require_ours
        self._pool = WorkerPool(_UPLOADS, "mosaic-upload")
        self._pool.begin()  # at the interpreter's exit no thread can be started any more
        # The right to write ends with another writer's later claim: it is a condition of each put.
        return partial(self._pool.shutdown, wait=False, cancel_futures=True)

    def for_zarr(self) -> Any:
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)

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
                found = self._put_over(key, data, tag)
            except ChangedError:
                there = self.find(key)
                self._require_ours()
                tag = None if there is None else there.tag
            else:
                with self._tagging:
                    self._tags.pop(key, None)
                    self._tags[key] = found.tag
                    if len(self._tags) > _MOST_TAGS:
                        del self._tags[next(iter(self._tags))]
                return
        raise OSError(errno.EBUSY, "others keep writing here", f"{self.address}/{key}")

    def _put_over(self, key: str, data: Any, tag: str | None) -> Version:
        """Put what must not be there, or replace what has the tag; else a ChangedError."""
        import obstore

        mode: Any = "create"
        if tag is not None:
            versions = zip(("e_tag", "version"), tag.split("\n"), strict=True)
            mode = {name: value for name, value in versions if value}
        try:
            found = self.ask("write", key, obstore.put, key, data, mode=mode, use_multipart=False)
        except FileNotFoundError:
            raise ChangedError(f"{self.address}/{key}") from None
        return version_of({**found, "size": len(data)})

    def _listed(self, folder: str) -> Any:
        import obstore

        return self.ask("list", folder, obstore.list_with_delimiter, folder or None)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*", re.S)
#: obstore gives up after half a minute, in which a large shard may not get through a thin line.
_CLIENT = {"allow_http": True, "timeout": timedelta(minutes=5)}
#: Of the first request, which tells whether the address is any good.
_IMPATIENT = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


def is_url(text: Any) -> bool:
    """Whether a text is a URL, of whatever scheme."""
    return isinstance(text, str) and _URL.fullmatch(text) is not None


def is_store_object(value: Any) -> bool:
    """Whether it is a store of obstore, which then was imported already."""
    return "obstore" in sys.modules and type(value).__module__.partition(".")[0] == "obstore"


def blobs_at_url(url: str, name: str = "path") -> ObjectBlobs:
    """The blobs of the store at a URL such as ``s3://bucket/runs/today.zarr``.

    Credentials and endpoint are the environment's. ``name`` is the argument's, for errors.

    Raises:
        InputError: Another scheme, no bucket, or a URL that would lead to another place than it
            shows: obstore drops what stands behind ``#`` or ``?``, for one.
        MissingDependencyError: obstore is not installed.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SERVICES:
        known = ", ".join(f"{s}://" for s in SERVICES)
        raise InputError(f"{name}: expected a path, or a URL with {known}, got the URL {url}")
    address = f"{scheme}://{rest.strip('/')}"
    if not rest.strip("/") or rest.startswith("/"):
        raise InputError(f"{name}: expected {scheme}://BUCKET/NAME, got the URL {url}")
    with needed(f"{url}: object storage needs obstore: pip install 'mosaic-collect[objects]'"):
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    try:
        store = from_url(address, client_options=_CLIENT)
        first = from_url(address, client_options=_CLIENT, retry_config=_IMPATIENT)
    except (BaseError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"{name}: {_without_password(url)} cannot be opened: {said}") from error
    if _address_of(store, scheme) != address:
        raise InputError(
            f"{name}: the URL {_without_password(url)} leads to {_address_of(store, scheme)}: "
            f"expected {scheme}://BUCKET/NAME without ?, #, %, user, password, port, control "
            "characters, and empty or dotted names"
        )
    return ObjectBlobs(store, address, (blobs_at_url, (address,)), first)


def blobs_in(store: Any, name: str = "path") -> ObjectBlobs:
    """The blobs of the store that lies in an obstore store, at its prefix."""
    kind, kinds = type(store).__name__, [*(k for k, *_ in SERVICES.values()), "MemoryStore"]
    if kind not in kinds:
        raise InputError(f"{name}: expected one of obstore's {', '.join(kinds)}, got its {kind}")
    return ObjectBlobs(store, _address_of(store), (blobs_in, (store,)))


def _address_of(store: Any, scheme: str = "") -> str:
    """URL of the bucket and prefix that an obstore store uses; of its schemes, this one."""
    kind = type(store).__name__
    if kind == "MemoryStore":
        return f"memory://{id(store):x}"
    buckets = {s: b for s, (k, b, *_) in SERVICES.items() if k == kind}
    scheme = scheme if scheme in buckets else next(iter(buckets))
    parts = [str(store.config.get(buckets[scheme], "")), str(store.prefix or "").strip("/")]
    return f"{scheme}://{'/'.join(filter(None, parts))}"


def _without_password(url: str) -> str:
    """The URL as text without user and password: errors are logged."""
    return shown(re.sub(r"//[^/@]*@", "//***@", url))
