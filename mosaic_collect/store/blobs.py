"""What a store needs of the medium on which it lies: named blobs, each written as a whole.

A key is ``zarr.json`` or ``actions/c.3.0.0``, with at most one folder in it. Every read and every
write of a store passes a ``Blobs``; which operation comes before which is ``commit``'s affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Version(NamedTuple):
    """What a key held when it was looked at: its size, and a tag that another content has not."""

    nbytes: int
    tag: str


class Blob(Protocol):
    """One blob, opened for reading. Whoever replaces it meanwhile does not disturb this reader."""

    address: str
    nbytes: int

    def read(self, start: int, nbytes: int) -> bytes:
        """So many bytes from there on, fewer where the blob ends; safe to call from threads."""

    def close(self) -> None:
        """Give it back."""


class Pending(Protocol):
    """A blob on its way: nobody sees it before ``finish``. ``nbytes`` were written for it."""

    address: str
    nbytes: int

    def finish(self) -> None:
        """When it returns, the bytes are safe under their key, which may need ``settle`` yet."""

    def abandon(self) -> None:
        """Leave nothing behind, as far as the medium lets us; if not, a resume will."""


class Upload(Pending, Protocol):
    """A blob that is being written."""

    def write(self, buffers: Sequence[Any]) -> None:
        """Append the buffers."""

    def fileno(self) -> int:
        """For a process that writes in this one's place; ``nbytes`` is then told how much."""


class ChangedError(Exception):
    """A key has not the content that it was to be replaced over."""


class Claim(Protocol):
    """The right to write to a store."""

    def release(self) -> None:
        """Let the next writer in; calling it twice is allowed."""


@runtime_checkable
class Blobs(Protocol):
    """The blobs of one store. Failures of the medium are OSErrors that name the place.

    Pickles as its address: another process sees the same blobs.
    """

    address: str

    def place(self) -> str | None:
        """What tells this place from others, whatever it is called; None if there is none."""

    def is_there(self) -> bool:
        """Whether there is a place at all in which a store could lie."""

    def is_taken(self) -> bool:
        """Whether something lies where a store is to be made; an empty folder does not count."""

    def make(self) -> None:
        """Make the place; when it returns, it survives a power cut."""

    def check_folders(self, names: Iterable[str]) -> None:
        """Refuse folders that lead out of the store; those that are not there are fine.

        Raises:
            CorruptStoreError: One does.
        """

    def make_folders(self, names: Iterable[str]) -> None:
        """Make folders for keys; they last after ``settle`` of ``""``."""

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder, sorted; nothing if there is no such folder."""

    def is_debris(self, name: str) -> bool:
        """Whether what lies under this name is a blob that a killed writer never finished."""

    def find(self, key: str) -> Version | None:
        """What the key holds; None for nothing."""

    def open(self, key: str) -> Blob:
        """Open for reading.

        Raises:
            FileNotFoundError: Nothing has that key.
            OSError: With ``EINVAL`` or ``ELOOP`` for what is no blob.
        """

    def upload(self, key: str) -> Upload:
        """Begin a blob, which replaces what has the key when it is finished."""

    def alias(self, source: str, key: str) -> Pending:
        """A blob with the bytes of another, by then finished, one; nothing is written to it."""

    def put(self, key: str, data: bytes) -> None:
        """Give the key this content; whatever happens, it has the old content or this one."""

    def replace(self, key: str, data: bytes, over: Version | None) -> Version:
        """The same, if the key still has the content that was last seen: the commit.

        Args:
            key: The key.
            data: Its new content.
            over: What ``find`` or an earlier call gave.

        Returns:
            The new content's.

        Raises:
            ChangedError: Something else is there; it was not touched.
        """

    def require_place(self) -> None:
        """Make sure that what was claimed is still what lies at the address.

        Raises:
            StoreLostError: It is not; says what became of it.
        """

    def settle(self, folders: Iterable[str]) -> None:
        """When it returns, keys made, changed or removed in these folders survive a power cut."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove blobs; they may be gone already."""

    def claim(self) -> Claim:
        """Become the only writer; from now on what is written goes to this very place or nowhere.

        Raises:
            StoreLockedError: Another living one is at work.
        """

    def free_nbytes(self) -> int | None:
        """Room for more; None if the medium does not say."""


def read_all(blobs: Blobs, key: str, most: int) -> bytes:
    """A whole blob, or its first ``most`` bytes; errors as ``Blobs.open``'s."""
    blob = blobs.open(key)
    try:
        return blob.read(0, most)
    finally:
        blob.close()
