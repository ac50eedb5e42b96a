"""``verify_store``: every kind of damage is found, and said where it is."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, TrajectoryDataset
from mosaic_collect.errors import NewerFormatError, StoreNotFoundError
from mosaic_collect.reading import verify
from mosaic_collect.reading.verify import VerifyReport, verify_store
from mosaic_collect.store.metadata import ATTRIBUTE
from tests import helpers
from tests.export import stores

SCHEMA = helpers.SMALL.with_fields(Field(name="motion_id", dtype="int32"))
FIELDS = (*stores.MOSAIC_NAMES, "motion_id", "valid_mask", "trajectory_id")


@pytest.fixture
def made(small_chunks: int, store: str) -> TrajectoryDataset:
    """A store of several blocks, the last not full, and of several chunks a shard, with padding."""
    stores.write(
        store, 11, num_envs=60, masks=stores.some_masks(60), ends={4: [0, 7], 9: [59]},
        schema=SCHEMA,
    )  # fmt: skip
    return TrajectoryDataset(store)


def shard(dataset: TrajectoryDataset, field: str, block: int) -> str:
    return os.path.join(dataset.path, field, dataset.state.grid(field).shard_name(block))


def only_problem(store: str) -> str:
    report = verify_store(store)
    assert not report.ok
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def place(dataset: TrajectoryDataset, block: int, first: int, end: int) -> str:
    """How a problem ends: which steps and environments are touched."""
    size = dataset.state.block_steps
    last = min((block + 1) * size, dataset.num_steps) - 1
    return f"(steps {block * size}..{last}, envs {first}..{end - 1})"


def test_a_good_store(made: TrajectoryDataset) -> None:
    told: list[int] = []
    assert made.state.committed_steps % made.state.block_steps
    report = verify_store(made.path, told.append)
    assert report.ok
    assert (report.problems, report.notes) == ((), ())
    shards = len(FIELDS) * made.state.num_blocks
    assert report.checked == sum(told) == shards
    files = [shard(made, f, b) for f in FIELDS for b in range(made.state.num_blocks)]
    assert 0 < report.nbytes <= sum(map(os.path.getsize, files))


@pytest.mark.parametrize("field", FIELDS)
def test_a_flipped_bit_in_a_chunk(made: TrajectoryDataset, field: str) -> None:
    """In the first chunk of a block, and in the last one of the last."""
    grid, last = made.state.grid(field), made.state.num_blocks - 1
    assert grid.chunks > 1
    before_checksum = -(16 * grid.chunks + 4) - 5
    for block, chunk, at, bit in ((1, 0, 2, 0x10), (last, grid.chunks - 1, before_checksum, 1)):
        stores.flip(shard(made, field, block), at, bit)
        problem = only_problem(made.path)
        assert f"{field}, block {block}, chunk {chunk}: checksum" in problem
        first = chunk * grid.chunk_envs
        assert problem.endswith(place(made, block, first, min(first + grid.chunk_envs, 60)))
        stores.flip(shard(made, field, block), at, bit)


@pytest.mark.parametrize("field", FIELDS)
def test_a_flipped_bit_in_an_index(made: TrajectoryDataset, field: str) -> None:
    for position in (-1, -5, -20):
        stores.flip(shard(made, field, 2), position, 4)
        problem = only_problem(made.path)
        assert f"{field}, block 2, index" in problem
        assert problem.endswith(place(made, 2, 0, 60))
        stores.flip(shard(made, field, 2), position, 4)


@pytest.mark.parametrize("field", FIELDS)
def test_every_byte_of_a_shard_is_guarded(store: str, field: str) -> None:
    stores.write(store, 3, num_envs=2, masks=stores.some_masks(2), schema=SCHEMA)
    path = shard(TrajectoryDataset(store), field, 0)
    for at in range(-os.path.getsize(path), 0):
        stores.flip(path, at, 1 << at % 8)
        assert not verify_store(store).ok, at
        stores.flip(path, at, 1 << at % 8)
    assert verify_store(store).ok


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "folder"])
def test_a_shard_that_is_not_what_it_was(made: TrajectoryDataset, field: str, how: str) -> None:
    path = shard(made, field, 1)
    if how == "cut off":
        os.truncate(path, os.path.getsize(path) - 1)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "missing":
        os.unlink(path)
    else:
        os.unlink(path)
        os.mkdir(path)
    problem = only_problem(made.path)
    assert f"{field}, block 1" in problem
    assert problem.endswith(place(made, 1, 0, 60))


def test_several_are_all_named(made: TrajectoryDataset) -> None:
    os.unlink(shard(made, "actions", 0))
    stores.flip(shard(made, "actions", 2), 2)
    stores.flip(shard(made, "motion_id", 1), -1)
    problems = verify_store(made.path).problems
    assert len(problems) == 3
    for part, words in zip(
        problems, ("actions, block 0", "actions, block 2", "motion_id, block 1"), strict=True
    ):
        assert words in part


@pytest.mark.parametrize("harm", [lambda path: stores.flip(path, 2), os.unlink])
def test_no_end_of_problems(
    store: str, monkeypatch: pytest.MonkeyPatch, harm: Callable[[str], None]
) -> None:
    """Of missing shards, of which a state may claim any number, not even the bound is looked at."""
    monkeypatch.setattr("mosaic_collect.reading.verify._MAX_PROBLEMS", 5)
    stores.write(store, 30)
    for block in range(10):
        harm(os.path.join(store, "actions", f"c.{block}.0.0"))
    problems = verify_store(store).problems
    assert len(problems) == (1 if harm is os.unlink else 5)
    assert "missing" in problems[0] or harm is not os.unlink


def edit_json(path: str, *keys: Any, to: Callable[[Any], Any]) -> None:
    """Replace one value of a JSON file by what a function makes of it."""
    with open(path) as file:
        document = place = json.load(file)
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to(place[keys[-1]])
    with open(path, "w") as file:
        json.dump(document, file)


def lie(store: str, **changes: Any) -> VerifyReport:
    """What is found of a store whose state was changed."""
    helpers.edit_state(store, **changes)
    return verify_store(store)


def test_a_state_that_lies(store: str) -> None:
    stores.write(store, 8, edit=stores.nan_at("actions", (3, 1)))
    state = TrajectoryDataset(store).state
    valid, more = state.num_valid, state.committed_steps + state.block_steps
    none, two_more = ({**state.nonfinite, n: c} for n, c in (("actions", 0), ("observations", 2)))
    for (name, value), words in (
        (("num_valid", valid - 1), f"valid_mask: {valid} valid pairs, metadata says {valid - 1}"),
        (("nonfinite", none), "actions: 1 non-finite pairs, metadata says 0"),
        (("nonfinite", two_more), "observations: 0 non-finite pairs, metadata says 2"),
        (("next_trajectory_id", state.next_trajectory_id - 1), "trajectory_id, block 0: ids fall"),
        (("committed_steps", more), "zarr.json: the consolidated arrays contradict"),
    ):
        assert lie(store, **{name: value}).problems[0].startswith(words)
        assert lie(store, **{name: getattr(state, name)}).ok


@pytest.mark.parametrize("ids", [(0, 0, 0), (5, 4, 4)], ids=["between blocks", "within a block"])
def test_ids_that_fall(store: str, ids: tuple[int, ...]) -> None:
    """In a shard that is whole by itself, behind ids of 0..3."""
    stores.write(store, 9, ends={2: [1], 5: [1]})
    state = TrajectoryDataset(store).state
    grid = state.grid("trajectory_id")
    chunks = [np.tile(np.array(ids), (grid.chunk_envs, 1))] * grid.chunks
    with open(os.path.join(store, grid.shard_key(1)), "wb") as file:
        file.write(helpers.one_shard(state, "trajectory_id", chunks, 1))
    words = "trajectory_id, block 1: ids fall or were never given out"
    assert verify_store(store).problems[0] == words
    stores.flip(os.path.join(store, "actions", "c.0.0.0"), 2)
    damage, found, *_ = verify_store(store).problems
    assert "actions, block 0" in damage
    assert found == words


@pytest.mark.parametrize("field", ["num_valid", "committed_steps", "next_trajectory_id", "status"])
def test_an_edited_root_without_its_checksum(made: TrajectoryDataset, field: str) -> None:
    root = os.path.join(made.path, "zarr.json")
    change = (lambda _: "collecting") if field == "status" else (lambda number: number + 1)
    edit_json(root, "attributes", ATTRIBUTE, field, to=change)
    assert "checksum" in only_problem(made.path)


def test_a_store_that_zarr_consolidated_is_good(made: TrajectoryDataset) -> None:
    """It copies the arrays' own attributes, one of them with the state's second copy."""
    zarr = pytest.importorskip("zarr")
    zarr.open_group(made.path)["actions"].attrs["units"] = "rad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is an extension of Zarr v3
        zarr.consolidate_metadata(made.path)
    assert verify_store(made.path).problems == ()
    assert TrajectoryDataset(made.path).num_steps == made.num_steps


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (("shape", 0), lambda steps: steps + 1),
        (("codecs", 0, "configuration", "codecs"), lambda chain: chain[:-1]),
        (("fill_value",), lambda _: 7),
    ],
)
def test_an_array_document_that_contradicts_the_state(
    made: TrajectoryDataset, place: tuple[Any, ...], change: Callable[[Any], Any]
) -> None:
    edit_json(os.path.join(made.path, "actions", "zarr.json"), *place, to=change)
    assert only_problem(made.path).startswith("actions/zarr.json")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_an_array_document_that_is_missing_or_torn(
    made: TrajectoryDataset, content: bytes | None
) -> None:
    path = Path(made.path, "actions", "zarr.json")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert only_problem(made.path).startswith("actions/zarr.json")


def test_what_a_killed_run_leaves_is_a_note(made: TrajectoryDataset) -> None:
    """A document that lags, and files past the last commit."""
    folder = os.path.join(made.path, "actions")
    edit_json(os.path.join(folder, "zarr.json"), "shape", 0, to=lambda _: 5)
    for name in ("c.77.0.0", ".c.78.0.0.tmp"):
        shutil.copy(shard(made, "actions", 0), os.path.join(folder, name))
    report = verify_store(made.path)
    assert report.ok
    lags, files = report.notes
    assert "actions/zarr.json lags at step 5" in lags
    assert files.startswith("actions: 2 files past the last commit")


def test_a_store_with_little_in_it(store: str) -> None:
    os.mkdir(store)
    report = verify_store(store)
    assert report.ok
    assert "zero steps" in report.notes[0]
    stores.write(store, 0, complete=False)
    assert verify_store(store).ok
    stores.write(store, 5, complete=False, resume=True, ends={2: [0]})
    stores.write(store, 6, first=5, resume=True, complete=False)
    report = verify_store(store)
    assert (report.problems, report.notes) == ((), ())


def test_no_store(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nothing", "file"):
        with pytest.raises(StoreNotFoundError):
            verify_store(tmp_path / name)


def test_a_newer_format(made: TrajectoryDataset) -> None:
    with pytest.raises(NewerFormatError):
        lie(made.path, format_version=99)


def test_a_damaged_root(made: TrajectoryDataset) -> None:
    path = Path(made.path, "zarr.json")
    text = path.read_text()
    for torn in (text[: len(text) // 2], "", text.replace('"num_envs": 60', '"num_envs": -1')):
        path.write_text(torn)
        problem = only_problem(made.path)
        assert "zarr.json" in problem or "num_envs" in problem


def test_a_store_that_is_being_written_is_not_called_damaged(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit falls between the state that was read and the documents."""
    writer = helpers.open_writer(store)
    helpers.add(writer, 0)
    writer.commit()
    inner = verify._check_documents

    def later(*of_store: Any) -> None:
        helpers.add(writer, 1)
        writer.commit()
        inner(*of_store)

    monkeypatch.setattr(verify, "_check_documents", later)
    report = verify_store(store)
    writer.close()
    assert report.ok, report.problems
    assert any("a writer is at work" in note for note in report.notes)
