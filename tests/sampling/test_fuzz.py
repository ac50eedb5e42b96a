"""The loader against exports: every pair that it yields is a pair of an export of the same stores.

Random schemas, ranks, masks, NaN, ends, filters, pools, workers, states and damage. The export is
the judge: over an epoch, all ranks and workers together yield exactly its pairs, each once, also
where they were stopped and continued by a saved state in stores that have grown meanwhile. What is
damaged while they draw is an error; what was yielded before it is right.

``MOSAIC_COLLECT_FUZZ_ROUNDS=1000 pytest tests/sampling/test_fuzz.py`` runs longer.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from torch.utils.data import DataLoader  # noqa: E402

from mosaic_collect import BatchLoader, TrajectoryWriter, export_npy  # noqa: E402
from mosaic_collect.errors import CorruptStoreError, MosaicCollectError  # noqa: E402
from mosaic_collect.npyfile.read import read_npy  # noqa: E402
from mosaic_collect.store.schema import Field, Schema  # noqa: E402
from tests import helpers  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
#: What an export says of damage that leaves it in doubt which pairs to take.
DAMAGED = ("trajectory_end, block", "trajectory_id, block")
ROUNDS = int(os.environ.get("MOSAIC_COLLECT_FUZZ_ROUNDS", "24"))


class Recording:
    """Stores of random rows, which can be recorded further.

    Args:
        folder: Where they lie.
        rng: Decides everything.
    """

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self._rng, self._count = rng, 0
        extra = [
            Field(name="wide", dim=int(rng.integers(2, 9))),
            Field(name="double", dtype="float64", dim=2),
            Field(name="motion_id", dtype="int32"),
            Field(name="flag", dtype="bool"),
        ]
        chosen = [field for field in extra if rng.random() < 0.6]
        self.schema = Schema((Field(name="number", dtype="int32"), *chosen))
        self.has_ends = bool(rng.random() < 0.5)
        if self.has_ends:
            self.schema = self.schema.with_ends()
        self._block_steps, self._faulty = int(rng.integers(2, 7)), rng.random() < 0.5
        self._is_folder = bool(rng.random() < 0.4)
        self._folder, self._num_stores = str(folder / "ranks"), int(rng.integers(1, 4))
        self.writers: dict[int, TrajectoryWriter] = {}
        # Ranks are opened together, and some of them may record their first step later.
        for number in range(self._num_stores):
            self.writers[number] = self._open(folder, number)
        first = rng.integers(self._num_stores)
        for number in range(self._num_stores):
            late = self._is_folder and number != first and rng.random() < 0.4
            self.record(number, 0 if late else int(rng.integers(1, 14)))

    @property
    def where(self) -> Any:
        """What a loader or an export takes."""
        return self._folder if self._is_folder else [w.path for w in self.writers.values()]

    def _open(self, folder: Path, number: int) -> TrajectoryWriter:
        motions = [{"path": f"{int(name)}.npz"} for name in self._rng.permutation(6)[:3]]
        where = (self._folder, {"rank": number, "world_size": self._num_stores})
        path, options = where if self._is_folder else (folder / f"{number}.zarr", {})
        num_envs, metadata = int(self._rng.integers(1, 9)), {"motions": motions}
        return helpers.open_writer(
            path, num_envs, self.schema, self._block_steps, metadata=metadata, threads=1, **options
        )

    def record(self, number: int, steps: int) -> None:
        """Add some steps to a store, and commit them."""
        writer = self.writers[number]
        for _ in range(steps):
            writer.add_step(**self._rows(writer.num_envs))
            ended = np.flatnonzero(self._rng.random(writer.num_envs) < 0.15)
            failed = ended[self._rng.random(len(ended)) < 0.5] if self.has_ends else None
            writer.end_trajectories(
                ended.tolist(), failed=None if failed is None else failed.tolist()
            )
        writer.commit()

    def _rows(self, num_envs: int) -> dict[str, Any]:
        rng, found = self._rng, dict[str, Any]()
        for field in self.schema.fields:
            if field.name in self.schema.names:
                shape = (num_envs, *field.row_shape)
                found[field.name] = rng.integers(0, 3, shape).astype(field.dtype)
                if field.is_float and self._faulty:
                    found[field.name][rng.random(shape) < 0.03] = np.nan
                    if field.dtype == "float64":  # infinite in an export
                        found[field.name][rng.random(shape) < 0.02] = 1e300
        found["number"] = np.arange(self._count, self._count + num_envs, dtype=np.int32)
        self._count += num_envs
        return {**found, "valid_mask": rng.random(num_envs) < 0.9}

    def damage(self) -> None:
        """Flip a byte of some shard of some store, or lose the shard."""
        found = [p for w in self.writers.values() for p in sorted(Path(w.path).glob("*/c.*"))]
        if not found:
            return
        path = found[self._rng.integers(len(found))]
        if self._rng.random() < 0.2:
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[self._rng.integers(len(data))] ^= 255
            path.write_bytes(data)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close(complete=False)


def pairs(batches: Iterable[dict[str, Any]], like: dict[str, np.ndarray]) -> list[bytes]:
    """Each pair's values in all fields, as the export has them."""
    return [row for batch in batches for row in rows_of({n: batch[n] for n in like}, like)]


def rows_of(values: dict[str, Any], like: dict[str, np.ndarray]) -> list[bytes]:
    flat = [
        np.ascontiguousarray(np.asarray(values[n]), array.dtype).reshape(len(values[n]), -1)
        for n, array in like.items()
    ]
    both = np.concatenate([np.ascontiguousarray(f).view(np.uint8) for f in flat], axis=1)
    return [row.tobytes() for row in both]


class Case:
    """One recording, and loaders and exports that are asked for the same."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.recording, self._folder = Recording(folder, self.rng), folder
        schema, rng = self.recording.schema, self.rng
        names = [n for n in (*schema.names, "trajectory_id") if n != "number"]
        self.fields = ["number", *(n for n in names if rng.random() < 0.6)]
        others = [f.name for f in schema.fields if f.is_float and f.name not in self.fields]
        self.finite = others if rng.random() < 0.5 else []
        ends = self.recording.has_ends
        self.filters = {
            "exclude_interrupted": bool(rng.random() < 0.2),
            "exclude_failed": bool(ends and rng.random() < 0.4),
            "skip_damaged": bool(rng.random() < 0.4),
        }

    def export(self) -> dict[str, np.ndarray]:
        """The fields of an export that also looks into the finite ones."""
        npy = str(self._folder / "judge.npy")
        fields = [*self.fields, *self.finite]
        options = {"layout": "compact", "allow_incomplete": True, **self.filters}
        export_npy(self.recording.where, npy, fields=fields, **options)
        data = read_npy(npy)
        return {n: data[n].reshape(len(data[n]), -1) for n in self.fields}

    def options(self) -> dict[str, Any]:
        """Of a loader; with a pool of a few tiles, or of all."""
        return {
            **self.same,
            "shuffle_buffer_mb": float(self.rng.choice([0.02, 0.05, 0.2, 100])),
            "seed": int(self.rng.integers(1000)),
            "threads": int(self.rng.integers(1, 4)),
        }

    @property
    def same(self) -> dict[str, Any]:
        """Options that choose pairs."""
        return {"fields": self.fields, "finite_fields": self.finite, **self.filters}

    def loader(self, **options: Any) -> BatchLoader:
        return BatchLoader(self.recording.where, **options)


@pytest.fixture
def case(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    made = Case(tmp_path, request.param)
    yield made
    made.recording.close()


def unless(call: Any, *words: str) -> Any:
    """What a call returns; None if its error has one of these words: other errors are raised."""
    try:
        return call()
    except MosaicCollectError as error:
        if not any(word in str(error) for word in words):
            raise
        return None


NOTHING_LEFT = "no pair is left"
TOO_SMALL = ("shuffle_buffer_mb: expected at least", "a rank would have none")


def an_epoch(case: Case, like: dict[str, np.ndarray], grows: bool) -> list[bytes]:
    """The pairs that ranks and workers yield, stopped and continued where it saves states."""
    rng, found = case.rng, list[bytes]()
    options = {**case.options(), "batch_size": int(rng.integers(1, 20))}
    ranks = int(rng.integers(1, 4))
    loaders = [case.loader(rank=r, world_size=ranks, **options) for r in range(ranks)]
    workers = rng.random() < 0.15  # of every rank, or of none
    for rank, loader in enumerate(loaders):
        loader.set_epoch(3)
        if workers:
            found += pairs(DataLoader(loader, batch_size=None, num_workers=2), like)
            continue
        if rng.random() < 0.7 and len(loader) > 1:
            stopped = int(rng.integers(1, len(loader)))
            found += pairs(islice(loader, stopped), like)
            state = json.loads(json.dumps(loader.state_dict()))
            for number in case.recording.writers if grows else ():
                case.recording.record(number, int(rng.integers(0, 4)))
            loader = case.loader(rank=rank, world_size=ranks, **options)
            loader.load_state_dict(state)
        found += pairs(loader, like)
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than processors
@pytest.mark.parametrize("case", range(ROUNDS), indirect=True)
def test_an_epoch_holds_the_pairs_of_an_export(case: Case) -> None:
    if case.filters["skip_damaged"]:
        case.recording.damage()
    like = unless(case.export, NOTHING_LEFT, *DAMAGED)
    if like is None:  # then a loader says so, too
        with pytest.raises(MosaicCollectError, match="|".join((NOTHING_LEFT, *DAMAGED))):
            case.loader(batch_size=1, **case.same)
        return
    want = Counter(rows_of(like, like))
    # In stores that grow, ends may be recorded later of the steps that a state saw, so that filters
    # leave out more; and a damaged shard is replaced by a whole one.
    grows = not any(case.filters.values())
    got = unless(lambda: an_epoch(case, like, grows), *TOO_SMALL)
    assert got is None or Counter(got) == want
    now = set(rows_of(case.export(), like))
    for batch in islice(case.loader(batch_size=30, mode="stream", **case.same), 2):
        assert set(pairs([batch], like)) <= now


@pytest.mark.parametrize("mode", ["epochs", "stream"])
@pytest.mark.parametrize("case", range(1000, 1000 + ROUNDS), indirect=True)
def test_damage_that_comes_while_it_draws_yields_no_other_pairs(case: Case, mode: str) -> None:
    like = unless(case.export, NOTHING_LEFT)
    options = {**case.options(), "mode": mode, "batch_size": 2, "shuffle_buffer_mb": 0.02}
    loader = like and unless(lambda: case.loader(**options), *TOO_SMALL)
    if loader is None:
        return
    got: list[bytes] = []
    for _ in range(3):
        case.recording.damage()
        try:
            for batch in islice(loader, 200):
                got += pairs([batch], like)
                if case.rng.random() < 0.05:
                    case.recording.damage()
        except CorruptStoreError:
            continue
    assert set(got) <= set(rows_of(like, like))
    loader.close()
    left = case.filters["skip_damaged"] and unless(case.export, NOTHING_LEFT, *DAMAGED)
    if mode == "epochs" and left:
        loader.set_epoch(5)
        loader.refresh()
        assert Counter(pairs(loader, left)) == Counter(rows_of(left, left))
