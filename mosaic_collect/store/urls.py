"""URLs of object stores, and obstore's store objects, as blobs."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import Any

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError
from mosaic_collect.store.objects import ObjectBlobs
from mosaic_collect.store.service import Service
from mosaic_collect.text import shown

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.S)
#: obstore gives up after half a minute, in which a large shard may not get through a thin line.
_CLIENT = {"allow_http": True, "timeout": timedelta(minutes=5)}
#: Of the first request, which tells whether the address is any good.
_IMPATIENT = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
#: obstore's kinds of stores, what their URLs begin with, and what their configs call the bucket.
_KINDS = {
    "S3Store": ("s3", "bucket"),
    "GCSStore": ("gs", "bucket"),
    "AzureStore": ("az", "container_name"),
}


def is_url(text: Any) -> bool:
    """Whether a text is a URL, of whatever scheme."""
    return isinstance(text, str) and _URL.fullmatch(text) is not None


def is_store_object(value: Any) -> bool:
    """Whether it is a store of obstore, which then was imported already."""
    return "obstore" in sys.modules and type(value).__module__.partition(".")[0] == "obstore"


def blobs_at_url(url: str, name: str = "path") -> ObjectBlobs:
    """The blobs of the store at a URL; credentials and endpoint are the environment's.

    Args:
        url: ``s3://bucket/runs/today.zarr``, ``gs://...`` or ``az://container/...``.
        name: The argument's name, for errors.

    Raises:
        InputError: Another scheme, no bucket, or a URL that would lead to another place than it
            shows: obstore drops what stands behind ``#`` or ``?``, for one.
        MissingDependencyError: obstore is not installed.
    """
    match = _URL.fullmatch(url)
    scheme, rest = match.groups() if match else ("", url)
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://" for s in SCHEMES)
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
    if _address_of(store) != address:
        raise InputError(
            f"{name}: the URL {_without_password(url)} leads to {_address_of(store)}: expected "
            f"{scheme}://BUCKET/NAME without ?, #, %, user, password, port, control characters, "
            "and empty or dotted names"
        )
    return ObjectBlobs(Service(store, address, first), (blobs_at_url, (address,)))


def blobs_in(store: Any, name: str = "path") -> ObjectBlobs:
    """The blobs of the store that lies in an obstore store, at its prefix.

    Raises:
        InputError: A kind that has no conditional writes.
    """
    kind = type(store).__name__
    if kind != "MemoryStore" and kind not in _KINDS:
        known = ", ".join([*_KINDS, "MemoryStore"])
        raise InputError(f"{name}: expected one of obstore's {known}, got its {kind}")
    return ObjectBlobs(Service(store, _address_of(store)), (blobs_in, (store,)))


def _address_of(store: Any) -> str:
    """URL of the bucket and prefix that an obstore store uses."""
    if type(store).__name__ == "MemoryStore":
        return f"memory://{id(store):x}"
    scheme, bucket = _KINDS[type(store).__name__]
    parts = [str(store.config.get(bucket, "")), str(store.prefix or "").strip("/")]
    return f"{scheme}://{'/'.join(filter(None, parts))}"


def _without_password(url: str) -> str:
    """The URL as text without user and password: errors are logged."""
    return shown(re.sub(r"//[^/@]*@", "//***@", url))
