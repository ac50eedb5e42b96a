"""A folder of ranks: made by whoever comes first, and what does not belong there is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect import (
    CorruptStoreError,
    InputError,
    NewerFormatError,
    StoreError,
    StoreExistsError,
    StoreMismatchError,
    TrajectoryDataset,
    TrajectoryWriter,
    verify_store,
)
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.ranks import Destination, Recording, part_name, rank_of
from mosaic_collect.store.view import read_state
from tests.helpers import SMALL, record
from tests.ranks import record_rank, record_ranks


def test_names_are_numbers_of_five_digits() -> None:
    assert part_name(3) == "rank-00003"
    assert rank_of("rank-00003") == 3
    assert [rank_of(n) for n in ("rank-3", "rank-000003", "rank-0000x", "claims")] == [None] * 4


def test_of_many_who_come_at_once_one_makes_the_folder(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = str(tmp_path / f"{attempt}")
        barrier = threading.Barrier(8)

        def make(_: int, folder: str = folder, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            return Recording.make(PosixBlobs(folder)).identity

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(make, range(8)))) == 1
        assert sorted(os.listdir(folder)) == ["claims", "zarr.json"]
        assert os.listdir(f"{folder}/claims") == ["zarr.json"]


def test_a_kill_while_the_folder_is_made_leaves_what_the_next_goes_on_with(tmp_path: Path) -> None:
    half = tmp_path / "expert"
    (half / "claims").mkdir(parents=True)
    (half / ".zarr.json.1234abcd.tmp").write_bytes(b"{")
    assert TrajectoryDataset(record_ranks(half)).num_steps == 19


def test_ranks_are_stores_like_any_other(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert")
    assert verify_store(f"{folder}/rank-00001").ok
    told = TrajectoryDataset(f"{folder}/rank-00001").metadata["part"]
    assert (told["rank"], told["world_size"]) == (1, 4)


def test_a_rank_resumes_alone_in_a_world_of_another_size(tmp_path: Path) -> None:
    folder = str(tmp_path / "expert")
    for rank in (0, 1):
        record_rank(folder, rank, 3, 2 + rank, complete=False)
    record_rank(folder, 1, 6, 3, world_size=2, resume=True)
    dataset = TrajectoryDataset(folder)
    assert [part.num_steps for part in dataset.parts] == [3, 6]
    assert dataset.parts[1].metadata["part"]["world_size"] == 2
    assert dataset.status == "collecting"
    record_rank(folder, 2, 4, 2, world_size=3, resume="auto")
    assert len(TrajectoryDataset(folder).parts) == 3


def _swap(folder: Path) -> None:
    for old, new in (("rank-00000", "x"), ("rank-00001", "rank-00000"), ("x", "rank-00001")):
        os.rename(folder / old, folder / new)


def _of_another(folder: Path) -> None:
    shutil.rmtree(folder / "rank-00001")
    shutil.copytree(record_ranks(folder.parent / "other") + "/rank-00001", folder / "rank-00001")


def _by_itself(folder: Path) -> None:
    record(folder / "rank-00002", 1)


def _both(folder: Path) -> None:
    """A store copied over the folder."""
    shutil.copytree(folder / "rank-00000", folder, dirs_exist_ok=True)
    _told(folder, {"format_version": 1, "identity": "0"})


def _told(folder: Path, told: Any) -> None:
    document = json.loads((folder / "zarr.json").read_text())
    document["attributes"]["mosaic_collect_parts"] = told
    (folder / "zarr.json").write_text(json.dumps(document))


#: What is done to a folder of two ranks, the error, and its words.
SPOILED: list[tuple[Callable[[Path], Any], type[StoreError], str]] = [
    (_swap, StoreMismatchError, r"rank-00000: was recorded as rank 1"),
    (_of_another, StoreMismatchError, r"rank-00001: was recorded in another folder of ranks"),
    (_by_itself, StoreMismatchError, r"rank-00002: was recorded by itself"),
    (
        lambda folder: shutil.copytree(folder / "rank-00000", folder / "rank-1"),
        *(CorruptStoreError, r"rank-1: a store among ranks"),
    ),
    (
        lambda folder: record_ranks(folder / "more"),
        *(CorruptStoreError, r"more: a store among ranks"),
    ),
    (
        lambda folder: os.remove(folder / "zarr.json"),
        *(CorruptStoreError, r"zarr\.json is missing, though rank-00000 is there"),
    ),
    (_both, CorruptStoreError, "is a store, and a folder of ranks"),
    (
        lambda folder: shutil.copy(folder / "rank-00000" / "zarr.json", folder / "zarr.json"),
        *(CorruptStoreError, "rank-00000 lies in it"),
    ),
    (
        lambda folder: _told(folder, {"format_version": 2, "identity": "x"}),
        *(NewerFormatError, "format version 2"),
    ),
    (
        lambda folder: _told(folder, {"format_version": 1}),
        *(CorruptStoreError, "is damaged"),
    ),
    (  # a copy that was interrupted: shards without the document that counts them
        lambda folder: os.remove(folder / "rank-00001" / "zarr.json"),
        *(CorruptStoreError, "rank-00001.*zarr.json is missing"),
    ),
]


@pytest.mark.parametrize(("spoil", "error", "words"), SPOILED, ids=[s[2] for s in SPOILED])
def test_what_does_not_belong_is_told(
    tmp_path: Path, spoil: Any, error: type[StoreError], words: str
) -> None:
    folder = Path(record_ranks(tmp_path / "expert", {0: (5, 2), 1: (6, 2)}))
    spoil(folder)
    with pytest.raises(error, match=words):
        TrajectoryDataset(folder)
    if error is not NewerFormatError:
        assert any(re.search(words, problem) for problem in verify_store(folder).problems)


def test_a_rank_that_joined_and_is_gone_is_missing(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert")
    shutil.rmtree(f"{folder}/rank-00001")
    dataset = TrajectoryDataset(folder)
    assert dataset.missing == (f"{folder}/rank-00001",)
    assert dataset.never_joined == (f"{folder}/rank-00002",)
    assert dataset.status == "collecting"
    report = verify_store(folder)
    assert report.problems == (f"{folder}/rank-00001: a rank joined, and its store is not there",)
    assert report.notes == (f"{folder}/rank-00002: ranks that never joined",)


def test_a_store_where_ranks_are_and_ranks_where_a_store_is(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert")
    for resume in (True, False, "auto"):
        with pytest.raises(StoreExistsError, match="is a folder of ranks"):
            TrajectoryWriter(folder, SMALL, 2, resume=resume)
        with pytest.raises(StoreExistsError, match="is one store"):
            TrajectoryWriter(f"{folder}/rank-00000", SMALL, 2, rank=0, resume=resume)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match=r"found notes\.txt"):
        record_rank(tmp_path / "else", 0, 1, 2)
    assert os.listdir(tmp_path / "else") == ["notes.txt"]


def test_bad_ranks_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    for rank, world, words in (
        (-1, None, "rank: expected a whole number of 0"),
        (4, 4, r"rank: expected a whole number of 0\.\.3, got 4"),
        (True, None, "rank"),
        (0, 0, "world_size"),
    ):
        with pytest.raises(InputError, match=words):
            TrajectoryWriter(folder, SMALL, 2, rank=rank, world_size=world)
    with pytest.raises(InputError, match="num_envs: expected for a new store"):
        TrajectoryWriter(folder, SMALL, rank=0)
    assert not folder.exists()


def test_ranks_of_other_fields_or_of_another_folder_are_refused(tmp_path: Path) -> None:
    folder = record_ranks(tmp_path / "expert")
    before = sorted(os.listdir(folder))
    with pytest.raises(StoreMismatchError, match="rank-00000 beside it has other fields: actions"):
        TrajectoryWriter(folder, type(SMALL).mosaic(3, 5), 2, rank=2)
    assert sorted(os.listdir(folder)) == before
    other = record_ranks(tmp_path / "other", {1: (3, 4)})
    shutil.rmtree(f"{folder}/rank-00001")
    shutil.move(f"{other}/rank-00001", f"{folder}/rank-00001")
    with pytest.raises(StoreMismatchError, match="another folder of ranks"):
        TrajectoryWriter(folder, SMALL, 4, rank=1, resume=True)


def test_a_rank_joins_before_its_store_is_made(tmp_path: Path) -> None:
    """A kill in between leaves a rank that is missing, and its next run mends that."""
    folder = str(tmp_path / "expert")
    record_rank(folder, 0, 3, 2)
    state = read_state(PosixBlobs(f"{folder}/rank-00000"))
    Destination(PosixBlobs(folder), 1, 2).join(None, state)
    assert TrajectoryDataset(folder).missing == (f"{folder}/rank-00001",)
    record_rank(folder, 1, 3, 2, resume="auto")
    assert not TrajectoryDataset(folder).missing
    assert TrajectoryDataset(folder).status == "complete"


def test_in_object_storage(s3: str) -> None:
    folder = record_ranks(f"{s3}/expert")
    dataset = TrajectoryDataset(folder)
    assert (dataset.num_steps, dataset.status, len(dataset.trajectories)) == (19, "complete", 12)
    assert dataset.never_joined == (f"{folder}/rank-00002",)
    assert verify_store(folder).ok
    with pytest.raises(StoreExistsError, match="is a folder of ranks"):
        TrajectoryWriter(folder, SMALL, 2)
    record_rank(folder, 3, 10, 2, resume=True)
    dataset.refresh()
    assert dataset.num_steps == 21
