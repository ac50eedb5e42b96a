"""Whether what an interrupted import has committed is what the file says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.errors import StoreMismatchError
from mosaic_collect.importing.source import SourceFile
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.store.schema import VALID_MASK


def check_same_rows(source: SourceFile, dataset: TrajectoryDataset) -> None:
    """Hold every committed row against the file, bit for bit; a store may have been gone on with.

    Raises:
        StoreMismatchError: Naming the first field and step that differ.
        CorruptStoreError: A damaged chunk.
    """
    for start, piece in _pieces(source, dataset.num_steps):
        for name, values in piece.items():
            rows = dataset.read(name, start, start + len(values))
            same = (_bytes(rows) == _bytes(values)).all(axis=1)
            if not same.all():
                step = start + int(np.flatnonzero(~same)[0])
                raise StoreMismatchError(
                    f"{dataset.path}: {name}, step {step} is not what {source.path} holds: the "
                    "store was gone on with by someone else; import into another"
                )


def _pieces(source: SourceFile, num_steps: int) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """The file's first steps, some at a time, and the step at which each piece starts."""
    start = 0
    for piece in source.pieces():
        count = min(len(next(iter(piece.values()))), num_steps - start)
        if count <= 0:
            return
        first = next(iter(piece.values()))
        # Without a mask every pair is valid.
        piece.setdefault(VALID_MASK, np.ones(first.shape[:2], np.bool_))
        yield start, {name: values[:count] for name, values in piece.items()}
        start += count


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """``(steps, bytes of a step)``."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
