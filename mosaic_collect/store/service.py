"""Requests to an object store by obstore, whose failures are ``OSError``s that say what to do.

obstore tries again by itself: refused and cut connections, 429, 5xx. What it leaves is done here:
an upload that got no answer in time, and a listing cut off in the middle. Both may be asked again,
as uploads are conditional: one that arrives late finds that it was done.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any

from mosaic_collect.store.blobs import ChangedError

_TRIES = 4
#: What errors of obstore say that came of no answer at all, or of half of one.
_UNANSWERED = "HTTP error"
_UNREACHABLE = "tcp connect error|dns error|ConnectError|Connection refused"
_DENIED = "PermissionDenied|Unauthenticated|status code: 403"
#: What a request is called in errors, and what it needs, by the scheme of the address.
_PERMISSIONS = {
    "read": {"s3": "s3:GetObject", "gs": "storage.objects.get", "az": "Read"},
    "write": {
        "s3": "s3:PutObject",
        "gs": "storage.objects.create and storage.objects.delete",
        "az": "Write",
    },
    "list": {"s3": "s3:ListBucket", "gs": "storage.objects.list", "az": "List"},
}
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


class Service:
    """An obstore store.

    Args:
        store: It.
        address: Of it, for messages.
        first: The same, less patient: asked until it has answered once, so that a wrong address is
            told in seconds.
    """

    def __init__(self, store: Any, address: str, first: Any = None) -> None:
        self.store, self.address, self._first = store, address, first

    def ask(
        self, request: str, key: str, call: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """Make one request of a key.

        Args:
            request: "read", "write" or "list": what credentials must permit.
            key: Of the object, or of the folder.
            call: Of obstore; its first argument is the store.
            args: Behind that.
            options: Likewise.

        Raises:
            FileNotFoundError: There is no such object.
            ChangedError: The object is not, or not any more, what the request says.
            OSError: Anything else; names the place.
        """
        _process.begin(self.address)
        for attempt in range(1, _TRIES + 1):
            try:
                found = call(self._first or self.store, *args, **options)
            except Exception as error:
                text = str(error)
                if _UNANSWERED not in text:
                    self._first = None
                again = _UNANSWERED in text and not re.search(_UNREACHABLE, text)
                if not again or attempt == _TRIES:
                    raise self._explain(request, key, error) from error
            else:
                self._first = None
                return found
        raise AssertionError("unreachable")

    def _explain(self, request: str, key: str, error: Exception) -> Exception:
        """The error that a failed request becomes, with the service's own words behind."""
        name, text = type(error).__name__, str(error)
        if name in ("AlreadyExistsError", "PreconditionError"):
            return ChangedError(f"{self.address}/{key}")
        meant = f"{name}: {text}"
        code, meaning = next(m[1:] for m in _MEANINGS if re.search(m[0], meant, re.I))
        where = f"{self.address}/{key}" if key else self.address
        meaning = meaning.format(request=self._request(request))
        return OSError(code, f"{meaning} ({_said(text)})", where)

    def _request(self, request: str) -> str:
        """A request with the permission that it needs."""
        permissions = _PERMISSIONS[request]
        needed = permissions.get(self.address.partition("://")[0], permissions["s3"])
        # Who may not list is told so of an object that is not there.
        missing = ", or there is no such object" if request == "read" else ""
        return f"{request}: they need {needed}{missing}"


class _Process:
    """Whether obstore was at work in this process, or in one that it is a fork of.

    Its threads do not come along in a fork, and whoever asked there would wait for ever.
    """

    def __init__(self) -> None:
        self._used = self._forked = False
        os.register_at_fork(after_in_child=self._fork)

    def begin(self, address: str) -> None:
        if self._forked:
            raise OSError(
                errno.ENOTSUP,
                "object storage was used before this process was forked, and cannot be used here: "
                'start it by spawn (multiprocessing_context="spawn" of a DataLoader)',
                address,
            )
        self._used = True

    def _fork(self) -> None:
        self._forked = self._used


_process = _Process()


def _said(text: str) -> str:
    """The service's own words, without the document around them."""
    text, _, body = text.partition("\n\nDebug source")[0].partition(": <?xml")
    code = re.search(r"<Code>(\w+)</Code>", body)
    return " ".join([*text.split(), *(code.groups() if code else ())])
