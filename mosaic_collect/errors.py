"""Every error this package raises on purpose, grouped by what a caller would do about it.

MosaicCollectError
├── StoreError                                the store, as it is, does not allow the call
│   ├── StoreNotFoundError (FileNotFoundError)    another path, or create it
│   ├── StoreExistsError   (FileExistsError)      resume=True, overwrite=True, or another path
│   ├── StoreLockedError                          another writer lives: wait, or stop it
│   ├── StoreMismatchError                        other schema, N or codec than the store's
│   ├── StoreLostError                            what was opened lies there no more
│   ├── NewerFormatError                          a newer mosaic_collect wrote it: upgrade
│   ├── IncompleteStoreError                      collecting: finish it, or allow_incomplete=True
│   └── CorruptStoreError                         damaged bytes or lying metadata: restore a copy
├── WriteError            (OSError)           the disk said no: mend it, then resume=True
│   └── SpaceError                                not enough memory or disk for what was asked
├── ExportError                               the export, as asked for, would be wrong or useless
│   ├── NonFiniteError                            NaN or infinity would enter a grid
│   └── CorruptExportError                        the .npy is torn, hostile or not of this kind
├── InputError            (ValueError)        change the call: a bad argument, shape, dtype, option
│   └── FieldNotFoundError (KeyError)             another name; the message lists those there are
├── ClosedError           (RuntimeError)      the writer is closed: open another with resume=True
├── BusyError             (RuntimeError)      another thread is in a call of this writer
├── ClusterError          (RuntimeError)      the cluster cannot do it: mend it, or go without
└── MissingDependencyError (ImportError)      install the named extra
"""

from __future__ import annotations


class MosaicCollectError(Exception):
    """Base of all errors raised on purpose by this package."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes, OSError its number and file name in its place.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class InputError(MosaicCollectError, ValueError):
    """An argument is wrong; nothing was staged or written."""


class FieldNotFoundError(InputError, KeyError):
    """The store or schema has no field of that name."""


class ClosedError(MosaicCollectError, RuntimeError):
    """The writer was closed, or belongs to another process."""


class BusyError(MosaicCollectError, RuntimeError):
    """Another thread is in a call of the same writer; nothing was done."""


class ClusterError(MosaicCollectError, RuntimeError):
    """No scheduler, no worker, or workers of another package or other files; the data are fine."""


class MissingDependencyError(MosaicCollectError, ImportError):
    """An optional package is needed for this call; the message names the extra to install."""


class StoreError(MosaicCollectError):
    """The store does not allow the call."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """No store lies at this path."""


class StoreExistsError(StoreError, FileExistsError):
    """Something is at the path already, and neither resuming nor overwriting was requested."""


class StoreLockedError(StoreError):
    """Another living writer holds the store."""


class StoreMismatchError(StoreError):
    """The store was made with another schema, number of environments or codec."""


class StoreLostError(StoreError):
    """What was opened is no longer what lies there: removed, made anew, or written by another.

    Nothing that lies there was touched.
    """


class NewerFormatError(StoreError):
    """The store's format version is newer than this package."""


class IncompleteStoreError(StoreError):
    """The store is still collecting, and the call wants a complete one."""


class CorruptStoreError(StoreError):
    """Bytes are damaged or metadata contradicts itself or the files."""


class WriteError(MosaicCollectError, OSError):
    """Writing failed; committed steps are safe. Chained to the cause.

    ``errno`` and ``filename`` are the cause's, where it has them.
    """

    @classmethod
    def because(cls, message: str, cause: BaseException) -> WriteError:
        """An error that says ``message`` and carries what the cause knows; raise it from that."""
        error = cls(message)
        error.errno = getattr(cause, "errno", None)
        error.filename = getattr(cause, "filename", None)
        return error


class SpaceError(WriteError):
    """Not enough memory or disk for what was asked; nothing was written."""


class ExportError(MosaicCollectError):
    """The export, as asked for, would be wrong or useless."""


class NonFiniteError(ExportError):
    """A grid export would hold NaN or infinity."""


class CorruptExportError(ExportError):
    """An .npy file is torn, hostile, or not a dict of arrays."""
