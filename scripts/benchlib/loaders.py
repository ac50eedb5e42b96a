"""Loaders of random minibatches, each in its best form, with the same calls."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from benchlib.workload import Workload

Batches = Iterator[dict[str, Any]]
_WARM = 20


class MissingError(Exception):
    """A loader cannot be measured here, and why."""


@dataclass(frozen=True)
class Copies:
    """The store, and where the same pairs lie in other forms.

    Attributes:
        store: Path of ours.
        folder: For the others.
        steps: Recorded.
        fields: Of a batch.
    """

    store: str
    folder: str
    steps: int
    fields: tuple[str, ...]

    def of(self, name: str) -> str:
        """Where a loader's copy lies."""
        return os.path.join(self.folder, name)


class Loader(Protocol):
    """Gives batches."""

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """Write what it reads.

        Raises:
            ImportError: Its library is not installed.
            MissingError: It cannot be.
        """

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch, or without end."""


class Ours:
    """The sampler, in one of its modes.

    Args:
        cold: Whether the pool's memory is new; else an epoch, or some batches, came before.
        options: Of the sampler.
    """

    def __init__(self, cold: bool = False, **options: Any) -> None:
        self._cold, self._options = cold, options

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """The store is there."""
        import torch  # noqa: F401

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Of the sampler, opened before the clock runs."""
        import torch

        from mosaic_collect import Sampler

        torch.set_num_threads(1)
        sampler = Sampler(
            copies.store, args.batch, copies.fields, pool_mb=args.pool_mb, **self._options
        )
        if not self._cold:
            for _ in islice(sampler, _WARM if "mode" in self._options else None):
                pass
        return iter(sampler)


class ZarrIndex:
    """zarr-python's ``oindex``: random steps of all environments: fewest shards to open."""

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """The store is there."""
        import zarr  # noqa: F401

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Random steps, without end."""
        from mosaic_collect import TrajectoryDataset

        group = TrajectoryDataset(copies.store).to_zarr()
        arrays = {name: group[name] for name in copies.fields}
        chance, count = np.random.default_rng(0), max(1, args.batch // args.num_envs)
        while True:
            steps = np.sort(chance.choice(copies.steps, count, replace=False))
            yield {
                name: array.oindex[steps, :].reshape(-1, array.shape[-1])
                for name, array in arrays.items()
            }


class MemmapLoader:
    """torch's ``DataLoader`` over ``np.memmap``, a batch of rows a call."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """One raw file a field."""
        import torch  # noqa: F401

        os.makedirs(copies.folder, exist_ok=True)
        for name in copies.fields:
            if os.path.exists(copies.of(name)):
                return
            with open(copies.of(name), "wb") as file:
                for step in range(copies.steps):
                    file.write(workload.true_step(step)[name].tobytes())

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch."""
        import torch
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler

        torch.set_num_threads(1)
        rows = MemmapRows(copies, args.num_envs)
        order = BatchSampler(RandomSampler(rows), args.batch, drop_last=False)
        return iter(DataLoader(rows, batch_size=None, sampler=order, num_workers=self._workers))


class MemmapRows:
    """Rows of the raw files, by index or list of them."""

    def __init__(self, copies: Copies, num_envs: int) -> None:
        self._count = copies.steps * num_envs
        self._arrays = {
            name: np.memmap(copies.of(name), np.float32, "r").reshape(self._count, -1)
            for name in copies.fields
        }

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Any) -> dict[str, Any]:
        import torch

        return {n: torch.from_numpy(a.take(rows, axis=0)) for n, a in self._arrays.items()}


class StreamingLoader:
    """MosaicML streaming, uncompressed, a pair a sample in one array, ``DataLoader`` of workers."""

    _MOST = 131_072  # pairs: it writes them one by one

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """Its shards."""
        from streaming import MDSWriter

        with MDSWriter(out=copies.of("mds"), columns={"pair": "ndarray:float32"}) as writer:
            for step in range(min(copies.steps, -(-self._MOST // workload.num_envs))):
                rows = workload.true_step(step)
                for pair in np.concatenate([rows[n] for n in copies.fields], axis=1):
                    writer.write({"pair": pair})

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch."""
        import torch
        from streaming import StreamingDataset
        from torch.utils.data import DataLoader

        from mosaic_collect import TrajectoryDataset

        torch.set_num_threads(1)
        pairs = StreamingDataset(local=copies.of("mds"), shuffle=True, batch_size=args.batch)
        widths = [TrajectoryDataset(copies.store).schema[n].dim or 1 for n in copies.fields]
        for batch in DataLoader(pairs, batch_size=args.batch, num_workers=2):
            parts = torch.split(batch["pair"], widths, dim=1)
            yield dict(zip(copies.fields, parts, strict=True))


class Annbatch:
    """annbatch: chunks of sharded Zarr arrays of AnnData, drawn and mixed in a pool."""

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """Not here: it has no release for Python 3.11."""
        if sys.version_info < (3, 12):
            raise MissingError("it needs Python 3.12")
        raise MissingError("it reads AnnData stores, which nobody has written these pairs to yet")

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Not here."""
        raise NotImplementedError


LOADERS: dict[str, Loader] = {
    "sampler, first epoch": Ours(cold=True),
    "sampler, epochs": Ours(),
    "sampler, stream, each pair 4 times": Ours(mode="stream", uses=4),
    "zarr-python, oindex": ZarrIndex(),
    "DataLoader over np.memmap": MemmapLoader(0),
    "DataLoader over np.memmap, 2 workers": MemmapLoader(2),
    "MosaicML streaming, 2 workers": StreamingLoader(),
    "annbatch": Annbatch(),
}
