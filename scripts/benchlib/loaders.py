"""Loaders of random minibatches, each in its best form, with the same calls."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from benchlib.workload import Workload

Batches = Iterator[dict[str, Any]]
_WARM = 20


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
        """

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch, or without end."""


class Ours:
    """The loader, in one of its modes.

    Args:
        cold: Whether the pool's memory is new; else an epoch, or some batches, came before.
        options: Of the loader.
    """

    def __init__(self, cold: bool = False, **options: Any) -> None:
        self._cold, self._options = cold, options

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """The store is there."""
        import torch  # noqa: F401

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Of the loader, opened before the clock runs."""
        import torch

        from mosaic_collect import BatchLoader

        torch.set_num_threads(1)
        loader = BatchLoader(
            copies.store,
            args.batch,
            copies.fields,
            shuffle_buffer_mb=args.shuffle_buffer_mb,
            **self._options,
        )
        if not self._cold:
            for _ in islice(loader, _WARM if "mode" in self._options else None):
                pass
        return iter(loader)


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
    """annbatch: one dense matrix of all fields, shuffled as it is written, in runs of 512 rows.

    Args:
        compressed: By its writer's own default; else as it is, which is larger and faster to read.
    """

    _CHUNK, _SHARD_STEPS = 64, 256

    def __init__(self, compressed: bool) -> None:
        self._compressed = compressed

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """Chunks as its writer makes them; rows are shuffled in each shard."""
        import annbatch  # noqa: F401
        import zarr
        from zarr.codecs import BloscCodec

        rows = copies.steps * workload.num_envs
        width = sum(workload.pool[name].shape[-1] for name in copies.fields)
        shard = self._SHARD_STEPS * workload.num_envs
        codec = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")
        matrix = zarr.create_array(
            self._path(copies),
            shape=(rows, width),
            chunks=(min(self._CHUNK, shard), width),
            shards=(shard, width),
            dtype="float32",
            compressors=codec if self._compressed else None,
            overwrite=True,
        )
        chance = np.random.default_rng(0)
        for first in range(0, copies.steps, self._SHARD_STEPS):
            steps = range(first, min(first + self._SHARD_STEPS, copies.steps))
            several = [workload.true_step(step) for step in steps]
            pairs = np.concatenate(
                [np.concatenate([step[n] for n in copies.fields], axis=1) for step in several]
            )
            start = first * workload.num_envs
            matrix[start : start + len(pairs)] = chance.permutation(pairs)

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch, out of a pool of half the size, for the next one is read into another."""
        import torch
        import zarr
        from annbatch import Loader as AnnbatchLoader

        from mosaic_collect import TrajectoryDataset

        torch.set_num_threads(1)
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        matrix = zarr.open_array(self._path(copies), mode="r")
        chunk = math.gcd(args.batch, 512)
        rows = int(args.shuffle_buffer_mb * 1e6 / 2) // (4 * matrix.shape[1])
        loader = AnnbatchLoader(
            batch_size=args.batch,
            chunk_size=chunk,
            preload_nchunks=max(1, rows // args.batch) * args.batch // chunk,
            shuffle=True,
            preload_to_gpu=False,
            to="torch",
        ).add_dataset(matrix)
        widths = [TrajectoryDataset(copies.store).schema[n].dim or 1 for n in copies.fields]
        for batch in loader:
            yield dict(zip(copies.fields, torch.split(batch["X"], widths, dim=1), strict=True))

    def _path(self, copies: Copies) -> str:
        return copies.of("annbatch.zarr" if self._compressed else "annbatch-raw.zarr")


LOADERS: dict[str, Loader] = {
    "loader, first epoch": Ours(cold=True),
    "loader, epochs": Ours(),
    "loader, stream, each pair 4 times": Ours(mode="stream", reuse=4),
    "zarr-python, oindex": ZarrIndex(),
    "DataLoader over np.memmap": MemmapLoader(0),
    "DataLoader over np.memmap, 2 workers": MemmapLoader(2),
    "MosaicML streaming, 2 workers": StreamingLoader(),
    "annbatch, compressed": Annbatch(compressed=True),
    "annbatch, not compressed": Annbatch(compressed=False),
}
