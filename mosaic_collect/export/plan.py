"""An export that was decided, before its first byte and until its last."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mosaic_collect.errors import MosaicCollectError, WriteError
from mosaic_collect.export.report import ExportReport, notes
from mosaic_collect.export.stream import (
    Opened,
    Piece,
    PieceWriter,
    batches,
    pwrite_all,
    write_back,
)
from mosaic_collect.export.target import Target, check_target
from mosaic_collect.npyfile.layout import GRID, ArraySpec, FilePlan
from mosaic_collect.passes.engine import Engine, Threads
from mosaic_collect.reading.selection import Left, Selection
from mosaic_collect.reading.table import Table
from mosaic_collect.text import reason, size_of

_log = logging.getLogger(__name__)
Progress = Callable[[int], object]
#: Of what is handed to another process at a time, which syncs the file behind it.
_BATCH_NBYTES = 256 << 20


@dataclass(frozen=True)
class ExportPlan:
    """A decided export: what is to be written, and how to write it.

    Attributes:
        table: The stores.
        layout: ``grid`` or ``compact``.
        selection: Which pairs, in the file's order.
        left: Which not, and why.
        arrays: Key -> shape and dtype.
        metadata: MOSAIC's dict, with ours under ``mosaic_collect``.
        file: Where everything goes.
        check_finite: Whether a NaN met on the way contradicts what was found.
    """

    table: Table
    layout: str
    selection: Selection
    left: Left
    arrays: dict[str, ArraySpec]
    metadata: dict[str, Any]
    file: FilePlan
    check_finite: bool

    @property
    def arrays_nbytes(self) -> int:
        """Bytes of all arrays: what MOSAIC moves to the training device, on every rank."""
        return sum(spec.nbytes for spec in self.arrays.values())

    @property
    def num_valid(self) -> int:
        """Valid pairs in the file."""
        return self.table.state.num_valid if self.layout == GRID else self.selection.num_pairs

    @property
    def size_text(self) -> str:
        """What loading the file will take, in words."""
        size = size_of(self.arrays_nbytes)
        return (
            f"{self.selection.num_pairs:,} pairs, {self.layout}: {size} on disk, as much RAM for "
            "np.load, and as much on the training device of every rank"
        )

    def write(
        self,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        engine: Engine | None = None,
    ) -> ExportReport:
        """Write the file: whole under its name, or not there at all.

        Args:
            path: The file, ``*.npy``; one of that name is replaced.
            progress: Told the bytes written since the last call, ``arrays_nbytes`` in all.
            engine: Who writes; None: threads here.

        Raises:
            InputError: A name that is no place for the file.
            CorruptStoreError: A damaged chunk.
            SpaceError: Not enough disk; WriteError: The file cannot be written.
            ClusterError: Of the engine.
        """
        start = time.monotonic()
        name = check_target(path, [part.address for part in self.table.parts])
        _log.info("%s", self.size_text)
        try:
            with Target(name, self.file.nbytes) as target:
                self._fill(target, progress or (lambda nbytes: None), engine)
        except MosaicCollectError:
            raise
        except OSError as error:
            raise WriteError(
                f"{name}: writing failed, nothing was left there: {reason(error)}"
            ) from error
        return self._report(name, time.monotonic() - start)

    def _fill(self, target: Target, progress: Progress, engine: Engine | None) -> None:
        for offset, data in self.file.pieces:
            pwrite_all(target.fd, memoryview(data), offset)
        if engine is not None:
            with target.shared() as file:
                for _, nbytes in self._written(engine, self._writer(file.opened), _BATCH_NBYTES):
                    progress(nbytes)
            return
        writer = self._writer(target.opened)
        for (piece,), nbytes in self._written(Threads(), writer, 0):
            progress(nbytes)
            if piece.is_last:
                write_back(target.fd, *writer.place(piece.field, piece.cell.block))

    def _writer(self, opened: Opened) -> PieceWriter:
        return PieceWriter(
            self.table, self.selection, self.arrays, self.file.offsets, self.check_finite, opened
        )

    def _written(
        self, engine: Engine, writer: PieceWriter, nbytes: int
    ) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """Each batch, once it is written, and its bytes."""
        told, done = (batches(self.table, self.selection, self.arrays, nbytes) for _ in range(2))
        return zip(told, engine.map(writer, done, writer.require_seen), strict=True)

    def _report(self, path: str, seconds: float) -> ExportReport:
        return ExportReport(
            path=path,
            layout=self.layout,
            num_pairs=self.num_valid,
            shapes={name: spec.shape for name, spec in self.arrays.items()},
            left_out=self.left,
            file_nbytes=self.file.nbytes,
            device_nbytes=self.arrays_nbytes,
            seconds=seconds,
            notes=tuple(notes(self.table, self.layout, self.arrays)),
        )
