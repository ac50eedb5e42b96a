"""Loaders of random minibatches, each in its best form, with the same calls."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np

from benchlib.workload import Workload

Batches = Iterator[dict[str, Any]]
_WARM = 20
_WINDOW = 16  # steps; batches of windows have as many rows as those of pairs


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

    def as_fields(self, rows: Any) -> dict[str, Any]:
        """The fields of rows in which all of them lie side by side."""
        import torch

        from mosaic_collect import TrajectoryDataset

        widths = [TrajectoryDataset(self.store).schema[n].dim or 1 for n in self.fields]
        return dict(zip(self.fields, torch.split(rows, widths, dim=1), strict=True))


class Loader:
    """Gives batches; runs in a process whose torch has one thread.

    Attributes:
        needs: Modules without which it is skipped.
    """

    needs: tuple[str, ...] = ("torch",)

    def prepare(self, workload: Workload, copies: Copies) -> None:
        """Write what it reads, where that is not the store.

        Raises:
            ImportError: A module that it needs is not installed.
        """
        for module in self.needs:
            import_module(module)
        self.write(workload, copies)

    def write(self, workload: Workload, copies: Copies) -> None:
        """Write a copy."""

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch, or without end."""
        raise NotImplementedError


class Ours(Loader):
    """The loader, in one of its modes.

    Args:
        cold: Whether the pool's memory is new; else an epoch, or some batches, came before.
        options: Of the loader.
    """

    def __init__(self, cold: bool = False, **options: Any) -> None:
        self._cold, self._options = cold, options

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Of the loader, opened before the clock runs."""
        from mosaic_collect import BatchLoader

        window = self._options.get("window")
        loader = BatchLoader(
            copies.store,
            max(1, args.batch // (window or 1)),
            copies.fields,
            shuffle_buffer_mb=args.shuffle_buffer_mb,
            **self._options,
        )
        if not self._cold:
            for _ in islice(loader, _WARM if "mode" in self._options else None):
                pass
        return iter(loader) if window is None else map(rows_of_windows, loader)


def rows_of_windows(batch: dict[str, Any]) -> dict[str, Any]:
    """The rows of a batch of windows, one after the other."""
    return {name: values.flatten(0, 1) for name, values in batch.items()}


class ZarrIndex(Loader):
    """zarr-python's ``oindex``: random steps of all environments: fewest shards to open."""

    needs = ("zarr",)

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


class MemmapLoader(Loader):
    """torch's ``DataLoader`` over ``np.memmap``, a batch of rows a call."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def write(self, workload: Workload, copies: Copies) -> None:
        """One raw file a field."""
        os.makedirs(copies.folder, exist_ok=True)
        for name in copies.fields:
            if os.path.exists(copies.of(name)):
                return
            with open(copies.of(name), "wb") as file:
                for step in range(copies.steps):
                    file.write(workload.true_step(step)[name].tobytes())

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch."""
        from torch.utils.data import BatchSampler, DataLoader, RandomSampler

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


class StreamingLoader(Loader):
    """MosaicML streaming, uncompressed, a pair a sample in one array, ``DataLoader`` of workers."""

    needs = ("streaming",)
    _MOST = 131_072  # pairs: it writes them one by one

    def write(self, workload: Workload, copies: Copies) -> None:
        """Its shards."""
        from streaming import MDSWriter

        with MDSWriter(out=copies.of("mds"), columns={"pair": "ndarray:float32"}) as writer:
            for step in range(min(copies.steps, -(-self._MOST // workload.num_envs))):
                rows = workload.true_step(step)
                for pair in np.concatenate([rows[n] for n in copies.fields], axis=1):
                    writer.write({"pair": pair})

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch."""
        from streaming import StreamingDataset
        from torch.utils.data import DataLoader

        pairs = StreamingDataset(local=copies.of("mds"), shuffle=True, batch_size=args.batch)
        for batch in DataLoader(pairs, batch_size=args.batch, num_workers=2):
            yield copies.as_fields(batch["pair"])


class Annbatch(Loader):
    """annbatch: one dense matrix of all fields, shuffled as it is written, in runs of 512 rows.

    Args:
        compressed: By its writer's own default; else as it is, which is larger and faster to read.
    """

    needs = ("annbatch",)
    _CHUNK, _SHARD_STEPS = 64, 256

    def __init__(self, compressed: bool) -> None:
        self._compressed = compressed

    def write(self, workload: Workload, copies: Copies) -> None:
        """Chunks as its writer makes them; rows are shuffled in each shard."""
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
        import zarr
        from annbatch import Loader as AnnbatchLoader

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
        for batch in loader:
            yield copies.as_fields(batch["X"])

    def _path(self, copies: Copies) -> str:
        return copies.of("annbatch.zarr" if self._compressed else "annbatch-raw.zarr")


class TorchrlSlices(Loader):
    """torchrl's ``SliceSampler`` over its memory map, an environment being a trajectory."""

    needs = ("torchrl.data",)

    def write(self, workload: Workload, copies: Copies) -> None:
        """A memory map of all fields, environment by environment."""
        import torch
        from tensordict import TensorDict

        from mosaic_collect import TrajectoryDataset

        dataset = TrajectoryDataset(copies.store)
        envs = torch.arange(workload.num_envs).repeat_interleave(copies.steps)
        rows = {
            name: torch.from_numpy(np.ascontiguousarray(dataset[name][:].swapaxes(0, 1)))
            for name in copies.fields
        }
        flat = {name: values.flatten(0, 1) for name, values in rows.items()}
        TensorDict({**flat, "episode": envs}, [len(envs)]).memmap_(copies.of("torchrl"))

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """Random slices, without end."""
        from tensordict import TensorDict
        from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
        from torchrl.data.replay_buffers.samplers import SliceSampler

        rows = TensorDict.load_memmap(copies.of("torchrl"))
        buffer = TensorDictReplayBuffer(
            storage=LazyMemmapStorage(len(rows)),
            sampler=SliceSampler(slice_len=_WINDOW, traj_key="episode", cache_values=True),
            batch_size=max(1, args.batch // _WINDOW) * _WINDOW,
        )
        buffer.extend(rows)
        while True:
            batch = buffer.sample()
            yield {name: batch[name] for name in copies.fields}


class LeRobotWindows(Loader):
    """LeRobot's dataset with ``delta_timestamps``, by ``DataLoader``, of an export of the store."""

    needs = ("lerobot.datasets.lerobot_dataset",)
    _FPS = 50

    def write(self, workload: Workload, copies: Copies) -> None:
        """The export of the fields."""
        from mosaic_collect.export import export

        export(copies.store, copies.of("lerobot"), "lerobot", fps=self._FPS, fields=copies.fields)

    def batches(self, copies: Copies, args: Namespace) -> Batches:
        """One epoch."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
        from torch.utils.data import DataLoader

        names = ("observation.state", "action", "info.action_mean", "info.action_sigma")
        features = dict(zip(copies.fields, names, strict=True))
        times = [step / self._FPS for step in range(_WINDOW)]
        rows = LeRobotDataset(
            "some/name",
            root=copies.of("lerobot"),
            delta_timestamps=dict.fromkeys(features.values(), times),
        )
        size = max(1, args.batch // _WINDOW)
        for batch in DataLoader(rows, batch_size=size, shuffle=True, drop_last=True):
            yield rows_of_windows({name: batch[feature] for name, feature in features.items()})


LOADERS: dict[str, Loader] = {
    "loader, first epoch": Ours(cold=True),
    "loader, epochs": Ours(),
    "loader, stream, each pair 4 times": Ours(mode="stream", reuse=4),
    "loader, windows of 16": Ours(window=_WINDOW),
    "loader, windows of 16, stride 16": Ours(window=_WINDOW, stride=_WINDOW),
    "loader, windows of 16, stream": Ours(mode="stream", reuse=4, window=_WINDOW),
    "torchrl, slices of 16": TorchrlSlices(),
    "LeRobot, windows of 16": LeRobotWindows(),
    "zarr-python, oindex": ZarrIndex(),
    "DataLoader over np.memmap": MemmapLoader(0),
    "DataLoader over np.memmap, 2 workers": MemmapLoader(2),
    "MosaicML streaming, 2 workers": StreamingLoader(),
    "annbatch, compressed": Annbatch(compressed=True),
    "annbatch, not compressed": Annbatch(compressed=False),
}
