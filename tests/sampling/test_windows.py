"""Windows of consecutive steps, held against a reference that walks each environment."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, which a loader needs")

from torch.utils.data import DataLoader  # noqa: E402

from mosaic_collect import BatchLoader, Field, Schema, TrajectoryDataset  # noqa: E402
from mosaic_collect.errors import InputError  # noqa: E402
from tests import helpers  # noqa: E402
from tests.export import stores as damaged  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_chunks")
SCHEMA = Schema((Field("number", dtype="int32"), Field("wide", dim=6))).with_ends()
Windows = list[tuple[tuple[int, ...], int]]


def record(path: Any, rng: np.random.Generator, base: int, runs: int = 1) -> str:
    """Record random masks and ends; each row has a number of its own."""
    num_envs, block_steps = int(rng.integers(1, 12)), int(rng.integers(2, 7))
    for run in range(runs):
        opening = {"resume": True} if run else {}
        with helpers.open_writer(str(path), num_envs, SCHEMA, block_steps, **opening) as writer:
            for _ in range(int(rng.integers(3, 40))):
                number = base + writer.num_steps * num_envs + np.arange(num_envs, dtype=np.int32)
                wide = np.repeat(number[:, None], 6, 1).astype(np.float32)
                mask = rng.random(num_envs) < 0.93
                writer.add_step(number=number, wide=wide, valid_mask=mask)
                writer.end_trajectories(rng.random(num_envs) < 0.1)
    return str(path)


def reference(
    paths: list[str], length: int, stride: int, padding: bool, chosen: Any = None
) -> Windows:
    """All windows: numbers of their rows, the last one repeated, and how many rows are real."""
    found: Windows = []
    for path in paths:
        dataset = TrajectoryDataset(path)
        number, ids = dataset.read("number"), dataset.read("trajectory_id")
        mask = dataset.read("valid_mask") & (True if chosen is None else chosen(ids))
        for env in range(dataset.num_envs):
            sequence: list[int] = []
            for step in range(dataset.num_steps + 1):
                ends = step == dataset.num_steps or not mask[step, env]
                if ends or (step and ids[step, env] != ids[step - 1, env]):
                    for at in range(0, len(sequence), stride):
                        rows = sequence[at : at + length]
                        if padding or len(rows) == length:
                            rest = [rows[-1]] * (length - len(rows))
                            found.append((tuple(rows + rest), len(rows)))
                    sequence = []
                if not ends:
                    sequence.append(int(number[step, env]))
    return sorted(found)


def drawn(batches: Any, length: int, padding: bool) -> Windows:
    """The windows of batches; every row's wide field must be the same row's."""
    found: Windows = []
    for batch in batches:
        number, wide = batch["number"].numpy(), batch["wide"].numpy()
        assert number.shape == (len(number), length)
        assert (wide == number[:, :, None]).all()
        if padding:
            mask = batch["padding_mask"].numpy()
            assert mask.dtype == bool
            lengths = (~mask).sum(axis=1)
            assert (mask == (np.arange(length) >= lengths[:, None])).all()
        else:
            assert "padding_mask" not in batch
            lengths = np.full(len(number), length)
        found += [(tuple(n), int(k)) for n, k in zip(number.tolist(), lengths, strict=True)]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_an_epoch_holds_every_window_once(tmp_path: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [
        record(tmp_path / f"{n}", rng, 100_000 * n, runs=int(rng.integers(1, 3)))
        for n in range(1 + seed % 3)
    ]
    for _ in range(3):
        length, stride = int(rng.integers(2, 16)), int(rng.integers(1, 5))
        padding, world = bool(rng.integers(2)), int(rng.integers(1, 3))
        want = reference(paths, length, stride, padding)
        options = {"window": length, "stride": stride, "padding": padding, "seed": seed}
        if len(want) < 20:
            continue
        got: Windows = []
        for rank in range(world):
            loader = BatchLoader(paths, 3, rank=rank, world_size=world, **options)
            assert loader.num_pairs == len(want)
            # A buffer of a few tiles, so that tiles come and go.
            small = BatchLoader(
                paths, 3, rank=rank, world_size=world, shuffle_buffer_mb=0.03, threads=2, **options
            )
            for each in (loader, small):
                mine = drawn(each, length, padding)
                assert len(mine) > len(want) // world - 1
            got += mine
        assert sorted(got) == want
        stream = BatchLoader(paths, 7, mode="stream", shuffle_buffer_mb=0.03, **options)
        assert set(drawn(islice(stream, 40), length, padding)) <= set(want)


@pytest.mark.parametrize("mode", ["epochs", "stream"])
def test_a_saved_state_continues_with_the_same_windows(tmp_path: Any, mode: Any) -> None:
    path = record(tmp_path / "store", np.random.default_rng(3), 0, runs=2)
    options: dict[str, Any] = {"window": 5, "stride": 2, "padding": True, "mode": mode}
    first = BatchLoader(path, 4, shuffle_buffer_mb=0.02, **options)
    batches = iter(first)
    for _ in range(5):
        next(batches)
    state = first.state_dict()
    rest = drawn(islice(batches, 6), 5, True)
    second = BatchLoader(path, 4, shuffle_buffer_mb=0.02, **options)
    second.load_state_dict(state)
    assert drawn(islice(second, 6), 5, True) == rest
    other = BatchLoader(path, 4, shuffle_buffer_mb=0.02, **{**options, "stride": 3})
    with pytest.raises(InputError, match="stride: the state has 2, this loader 3"):
        other.load_state_dict(state)


def test_filters_workers_and_moments_are_those_of_pairs(tmp_path: Any) -> None:
    path = record(tmp_path / "store", np.random.default_rng(8), 0, runs=2)
    kept = [0, 2, 3, 5, 7, 8, 11]
    want = reference([path], 4, 1, False, lambda ids: np.isin(ids, kept))
    loader = BatchLoader(path, 4, window=4, trajectories=kept)
    assert sorted(drawn(loader, 4, False)) == want
    workers = DataLoader(loader, batch_size=None, num_workers=2)
    assert sorted(drawn(workers, 4, False)) == want
    pairs = BatchLoader(path, 4, trajectories=kept)
    for got, expected in zip(
        loader.moments("wide")["wide"], pairs.moments("wide")["wide"], strict=True
    ):
        assert torch.equal(got, expected)


def test_a_damaged_chunk_ends_windows_and_is_in_none(tmp_path: Any) -> None:
    path = str(tmp_path / "store")
    recorded = damaged.write(path, 12)
    damaged.flip(f"{path}/actions/c.1.0.0", 5)
    loader = BatchLoader(path, 4, ["actions"], window=2, skip_damaged=True)
    rows = {tuple(row) for row in recorded["actions"].reshape(-1, recorded["actions"].shape[-1])}
    lost = recorded["actions"][3:6].reshape(-1, recorded["actions"].shape[-1])
    got = Counter(
        tuple(r) for b in loader for r in b["actions"].reshape(-1, lost.shape[1]).tolist()
    )
    assert set(got) <= rows
    assert not set(got) & {tuple(row) for row in lost.tolist()}
    assert loader.num_pairs == sum(got.values()) // 2 > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 1}, "window: expected a whole number from 2"),
        ({"window": 2, "stride": 0}, "stride: expected a whole number from 1"),
        ({"stride": 2}, "stride, padding: of windows"),
        ({"padding": True}, "stride, padding: of windows"),
        ({"window": 500}, "no window of 500 steps is left"),
        ({"window": 2, "padding": 1}, "padding: expected True or False"),
    ],
)
def test_impossible_windows_are_refused(tmp_path: Any, options: Any, words: str) -> None:
    path = record(tmp_path / "store", np.random.default_rng(0), 0)
    with pytest.raises(InputError, match=words):
        BatchLoader(path, 4, **options)
