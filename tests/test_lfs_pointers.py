"""A clone without Git LFS: whatever is read names the pointer, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

import mosaic_collect as mc
from mosaic_collect.collection.acting import Acting
from mosaic_collect.collection.motions import read_motion
from tests.helpers import SMALL, record
from tests.ranks import record_rank

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)
WORDS = "a Git LFS pointer in place of the file: run git lfs pull"


def test_a_root_document(store: str) -> None:
    record(store, 4)
    (Path(store) / "zarr.json").write_bytes(POINTER)
    for call in (mc.TrajectoryDataset, lambda path: mc.TrajectoryWriter(path, SMALL, resume=True)):
        with pytest.raises(mc.CorruptStoreError, match=f"zarr.json is {WORDS}"):
            call(store)
    assert any(WORDS in problem for problem in mc.verify_store(store).problems)


def test_the_document_of_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    record_rank(folder, 0, 5, 2)
    (folder / "zarr.json").write_bytes(POINTER)
    with pytest.raises(mc.CorruptStoreError, match=f"zarr.json is {WORDS}"):
        mc.TrajectoryDataset(folder)


@pytest.mark.parametrize("pointer", [POINTER, POINTER + b"x" * (1024 - len(POINTER))])
def test_a_shard(store: str, npy: str, pointer: bytes) -> None:
    record(store, 4)
    (Path(store) / "actions" / "c.0.0.0").write_bytes(pointer)
    with pytest.raises(mc.CorruptStoreError, match=rf"actions, block 0: .*c.0.0.0 is {WORDS}"):
        mc.TrajectoryDataset(store)["actions"][:]
    with pytest.raises(mc.CorruptStoreError, match=WORDS):
        mc.export_npy(store, npy)
    assert any(WORDS in problem for problem in mc.verify_store(store).problems)


def test_an_export(npy: str, store: str) -> None:
    Path(npy).write_bytes(POINTER)
    with pytest.raises(mc.CorruptExportError, match=f"it is {WORDS}"):
        mc.import_npy(npy, store)


def test_a_motion(tmp_path: Path) -> None:
    path = tmp_path / "walk.npz"
    path.write_bytes(POINTER)
    contents, problems = read_motion(str(path))
    assert contents is None
    assert WORDS in problems[0]


@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint(tmp_path: Path, trust: bool) -> None:
    pytest.importorskip("torch")
    from mosaic_collect.adapters.rsl_rl.checkpoint import Checkpoint

    path = tmp_path / "model_1.pt"
    path.write_bytes(POINTER)
    with pytest.raises(mc.InputError, match=f"it is {WORDS}"):
        Checkpoint.read(path, trust)


def test_a_student(tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    path.write_bytes(POINTER)
    with pytest.raises(mc.InputError, match=f"which is {WORDS}"):
        _ = Acting(act_by=str(path)).student_file


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_training_config(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("torch")
    from mosaic_collect.adapters.rsl_rl.runner_cfg import read_runner_cfg

    path = tmp_path / f"agent.{ending}"
    path.write_bytes(POINTER)
    with pytest.raises(mc.InputError, match=f"is {WORDS}"):
        read_runner_cfg(path)
