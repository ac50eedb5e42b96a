"""What a store needs of the medium on which it lies: named blobs, each written as a whole.

A key is ``zarr.json`` or ``actions/c.3.0.0``, with at most one folder in it. Every read and every
write of a store passes a ``Blobs``; which operation comes before which is ``commit``'s affair.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Version(NamedTuple):
    """What a key held when it was looked at: its size, and a tag that another content has not."""

    nbytes: int
    tag: str


class ReplacedError(OSError):
    """What was opened is not what the key holds now, and the medium keeps no older content."""


class ChangedError(Exception):
    """A key has not the content that it was to be replaced over."""


class Blob(Protocol):
    """One blob, opened for reading: what is read of it is of one content, or an error."""

    address: str
    nbytes: int

    def read(self, start: int, nbytes: int) -> bytes:
        """So many bytes from there on, fewer where the blob ends; safe to call from threads.

        Raises:
            ReplacedError: The blob was replaced since it was opened; on POSIX that disturbs nobody.
        """

    def close(self) -> None:
        """Give it back."""


class Upload(Protocol):
    """A blob on its way: nobody sees it before ``finish``. ``nbytes`` were written for it."""

    address: str
    nbytes: int

    def write(self, buffers: Sequence[Any]) -> None:
        """Append the buffers."""

    def fileno(self) -> int:
        """Descriptor, for a process that writes in this one's place and then sets ``nbytes``."""

    def finish(self) -> None:
        """When it returns, the bytes are safe under their key, which may need ``settle`` yet."""

    def abandon(self) -> None:
        """Leave nothing behind, as far as the medium lets us; if not, a resume will."""


@runtime_checkable
class Blobs(Protocol):
    """The blobs of one store. Failures of the medium are OSErrors that name the place.

    Pickles as its address: another process sees the same blobs. A medium overrides what it
    needs of the methods that return None or have a body here.

    Attributes:
        address: Path or URL as a user would write it.
        links: Whether one blob can have several keys.
        guards: Whether the medium rejects each write if another writer came in between, so that no
            prior check is needed.
    """

    address: str
    links: bool
    guards: bool

    def within(self, name: str) -> Blobs:
        """The blobs of a store that lies in this place, under that name."""

    def place(self) -> str | None:
        """What tells this place from others, whatever it is called; None if there is none."""

    def is_there(self) -> bool:
        """Whether there is a place at all in which a store could lie."""

    def is_taken(self) -> bool:
        """Whether something lies where a store is to be made; an empty folder does not count."""

    def make(self) -> None:
        """Make the place; when it returns, it survives a power cut."""
        return

    def make_folders(self, names: Iterable[str]) -> None:
        """Make those folders for keys that are missing; they last after ``settle`` of ``""``.

        Raises:
            CorruptStoreError: One is there that leads out of the store.
        """
        return

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder, sorted; nothing if there is no such folder."""

    def is_debris(self, name: str) -> bool:
        """Whether what lies under this name is a blob that a killed writer never finished."""
        return False

    def find(self, key: str) -> Version | None:
        """What the key holds; None for nothing."""

    def versions(self, folder: str) -> dict[str, Version]:
        """What the keys of a folder hold, by their names in it."""

    def open(self, key: str) -> Blob:
        """Open for reading.

        Raises:
            FileNotFoundError: Nothing has that key.
            OSError: With ``EINVAL`` or ``ELOOP`` for what is no blob.
        """

    def upload(self, key: str, also: Iterable[str] = ()) -> Upload:
        """Begin a blob, which replaces what has the key, and the keys ``also``, when finished."""

    def link(self, source: str, key: str) -> None:
        """Give the bytes of a blob another key, too; only where there are links."""
        raise OSError(errno.ENOTSUP, "a blob has one key there", f"{self.address}/{key}")

    def put(self, documents: Mapping[str, bytes], synced: bool = True) -> None:
        """Give each key its content: after a kill it has the old content or this one.

        If ``synced``, the same holds after a power cut.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Give the key this content, safely, if nothing has it: True for one of many at once."""

    def replace(self, key: str, data: bytes, over: Version | None) -> Version:
        """As ``put``, if the key still has the content that was last seen: the commit.

        Returns:
            The new content's version.

        Raises:
            ChangedError: Something else than ``over`` is there; it was not touched.
        """

    def require_place(self) -> None:
        """Raise StoreLostError if what was claimed is no longer what lies at the address."""
        return

    def settle(self, folders: Iterable[str]) -> None:
        """When it returns, keys made, changed or removed in these folders survive a power cut.

        What ``finish`` left under way is done by then, in whatever folder; its failures are raised
        here.
        """

    def remove(self, keys: Iterable[str]) -> None:
        """Remove blobs; they may be gone already. Where all writes are guarded, nothing is done.

        There a removal that arrives late would take what was written since, and what no document
        speaks of is in nobody's way: it is replaced when its turn comes.
        """
        return

    def claim(self, require_ours: Callable[[], None]) -> Callable[[], None]:
        """Become the only writer; from now on what is written goes to this very place or nowhere.

        Where there are no locks, who comes last is the writer, and who was before hears of it at
        its next commit.

        Args:
            require_ours: Raises StoreLostError if another one has come since; a medium that guards
                calls it before it replaces what this writer has not written, from any thread.

        Returns:
            A function that lets the next writer in; calling it twice is allowed.

        Raises:
            StoreLockedError: Another living one is at work.
        """

    def is_claimed(self) -> bool | None:
        """Whether a living writer holds the claim; None if the medium does not know."""
        return None

    def for_zarr(self) -> Any:
        """The place as zarr-python, or what builds on it, takes it."""

    def free_nbytes(self) -> int | None:
        """Room for more; None if the medium does not say."""
        return None


def read_all(blobs: Blobs, key: str, most: int) -> bytes:
    """A whole blob, or its first ``most`` bytes; errors as ``Blobs.open``'s."""
    while True:
        blob = blobs.open(key)
        try:
            return blob.read(0, most)
        except ReplacedError:
            continue
        finally:
            blob.close()
