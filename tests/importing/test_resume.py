"""An interrupted import goes on where its committed steps end, with the same file only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    TrajectoryDataset,
    TrajectoryWriter,
    import_file,
    import_npy,
    verify_store,
)
from mosaic_collect.errors import (
    CorruptExportError,
    StoreMismatchError,
    StoreNotFoundError,
    WriteError,
)
from mosaic_collect.importing.source import FileSource
from mosaic_collect.store.metadata import COLLECTING, COMPLETE
from mosaic_collect.store.schema import VALID_MASK
from tests import helpers
from tests.importing import files

RING: dict[str, Any] = {"buffer_mb": 0.003}  # blocks of some steps


def interrupted(path: str, made: str, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """An import in which the step behind ``after`` others is interrupted."""
    with files.interrupted_after(after, monkeypatch), pytest.raises(KeyboardInterrupt):
        import_file(path, made, **RING)


def assert_whole(made: str, data: dict[str, Any]) -> None:
    dataset = TrajectoryDataset(made)
    assert dataset.status == COMPLETE
    for name in (*files.NAMES, VALID_MASK):
        helpers.assert_same(dataset.read(name), data[name], name)


def test_twice_and_with_a_file_that_was_moved(
    npy: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files.save(npy)
    interrupted(npy, made, monkeypatch, 3)
    moved = npy.replace("expert", "moved")
    os.rename(npy, moved)
    import_npy(moved, made, resume=True)
    report = import_npy(moved, made, resume=True)
    assert report.first_step == report.num_steps == 11
    assert "all steps were there already" in report.notes
    assert_whole(made, data)
    assert TrajectoryDataset(made).metadata["imported_from"]["path"] == moved


def test_trajectories_open_there_go_on_under_new_ids(
    npy: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.zeros((11, 4), np.int64) + np.arange(4)
    ids[6:, 1] = 9
    files.save(npy, trajectory_id=ids)
    interrupted(npy, made, monkeypatch, 3)
    report = import_npy(npy, made, resume=True)
    dataset = TrajectoryDataset(made)
    helpers.assert_same(dataset.read("source_trajectory_id"), ids)
    assert report.num_trajectories == 1
    assert helpers.ids(dataset)[[2, 3, 6]].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 8, 6, 7]]


def own_ids(npy: str) -> tuple[dict[str, Any], int]:
    """A file in which each environment's id changes every few steps, and the number of changes."""
    ids = np.stack([np.arange(11) // (2 + env) for env in range(4)], axis=1)
    data = files.save(npy, trajectory_id=ids)
    return data, int(np.count_nonzero(np.diff(ids, axis=0)))


@pytest.mark.parametrize("after", range(11))
def test_what_was_added_stays_with_its_ends_and_the_rest_comes(
    npy: str, made: str, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    data, changes = own_ids(npy)
    interrupted(npy, made, monkeypatch, after)
    dataset = TrajectoryDataset(made)
    assert (dataset.num_steps, dataset.status) == (after, COLLECTING)
    report = import_npy(npy, made, resume=True, **RING)
    assert (report.first_step, report.num_steps) == (after, 11)
    assert any(f"went on at step {after}" in n for n in report.notes) == (after > 0)
    assert report.num_trajectories == changes
    assert_whole(made, data)
    assert verify_store(made).ok


@pytest.mark.parametrize("number", range(6))
def test_an_interrupt_between_a_row_and_its_ends(
    npy: str, made: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (_, changes), end, left = own_ids(npy), TrajectoryWriter.end_trajectories, [number]

    def interrupted_once(self: TrajectoryWriter, *args: Any) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        end(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryWriter, "end_trajectories", interrupted_once)
        with pytest.raises(KeyboardInterrupt):
            import_npy(npy, made, **RING)
    assert import_npy(npy, made, resume=True).num_trajectories == changes


_KILLED = """
import os, sys, time
from mosaic_collect import TrajectoryWriter, import_npy

npy, store, after, commit = sys.argv[1:]
add, left = TrajectoryWriter.add_step, [int(after)]

def counted(self, **rows):
    if not left[0]:
        full = max(0, self.num_steps - 1) // self.block_steps * self.block_steps
        while commit == "by blocks" and self.stats.committed_steps < full:
            time.sleep(0.01)
        if commit == "now":
            self.commit()
        os._exit(9)
    left[0] -= 1
    add(self, **rows)

TrajectoryWriter.add_step = counted
import_npy(npy, store, buffer_mb=0.003)
"""


@pytest.mark.parametrize("commit", ["now", "by blocks"])
@pytest.mark.parametrize("after", [3, 6, 8, 9])
def test_a_kill_loses_no_end_of_what_is_committed(
    npy: str, made: str, after: int, commit: str
) -> None:
    _, changes = own_ids(npy)
    assert helpers.run_python(_KILLED, npy, made, str(after), commit).returncode == 9
    assert TrajectoryDataset(made).num_steps <= after
    assert import_npy(npy, made, resume=True).num_trajectories == changes


def test_a_store_that_was_killed_before_its_first_document(npy: str, made: str) -> None:
    data = files.save(npy)
    os.mkdir(made)
    import_npy(npy, made, resume=True)
    assert_whole(made, data)


def test_no_store_there(npy: str, made: str) -> None:
    files.save(npy)
    with pytest.raises(StoreNotFoundError):
        import_npy(npy, made, resume=True)
    assert not os.path.exists(made)


def test_another_file_is_refused(npy: str, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = files.save(npy)
    interrupted(npy, made, monkeypatch, 3)
    before = Path(made, "zarr.json").read_bytes()
    data["actions"][10, 3, 1] += 1
    np.save(npy, data)
    with pytest.raises(StoreMismatchError, match=r"another file.*sha256"):
        import_npy(npy, made, resume=True)
    files.save(npy, more=np.zeros((11, 4), np.float32))
    with pytest.raises(StoreMismatchError, match=r"another file.*nbytes"):
        import_npy(npy, made, resume=True)
    assert Path(made, "zarr.json").read_bytes() == before


def test_a_store_that_is_no_import_is_refused(npy: str, made: str) -> None:
    files.save(npy)
    helpers.record(made, 3)
    with pytest.raises(StoreMismatchError, match="not imported"):
        import_npy(npy, made, resume=True)


def test_an_import_that_was_gone_on_with_is_refused(npy: str, made: str) -> None:
    data = files.save(npy)
    import_npy(npy, made)
    with TrajectoryWriter(made, resume=True) as writer:
        writer.add_step(**{name: data[name][0] for name in files.NAMES})
    with pytest.raises(StoreMismatchError, match="at most 11 steps, got 12"):
        import_npy(npy, made, resume=True)


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_a_file_that_changes_meanwhile_leaves_no_complete_store(
    npy: str, made: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    data = files.save(npy)
    whole = npy + ".copy"
    shutil.copy2(npy, whole)
    digest = FileSource.sha256

    def then_changed(self: FileSource, progress: Any) -> str:
        found = digest(self, progress)
        if how == "cut off":
            os.truncate(npy, 500)
        else:
            os.utime(npy, ns=(1, 1))
        return found

    monkeypatch.setattr(FileSource, "sha256", then_changed)
    with pytest.raises(CorruptExportError, match="was changed while"):
        import_npy(npy, made)
    monkeypatch.setattr(FileSource, "sha256", digest)
    assert TrajectoryDataset(made).status == COLLECTING
    os.replace(whole, npy)
    import_npy(npy, made, resume=True)
    assert_whole(made, data)


def test_a_disk_that_says_no(npy: str, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = files.save(npy)
    replaced = os.replace

    def full(source: Any, target: Any, **folders: Any) -> None:
        if os.path.basename(target) == "c.1.0.0":
            raise OSError(28, "No space left on device", target)
        replaced(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(WriteError, match="resume=True"):
            import_npy(npy, made, **RING)
    assert 0 < TrajectoryDataset(made).num_steps < 11
    import_npy(npy, made, resume=True, **RING)
    assert_whole(made, data)


def test_a_store_that_someone_went_on_with_is_refused(tmp_path: Path) -> None:
    """Its rows are not the file's, though there are fewer of them."""
    npy, store = str(tmp_path / "old.npy"), str(tmp_path / "s.zarr")
    values = np.arange(12 * 2 * 3, dtype=np.float32).reshape(12, 2, 3)
    np.save(npy, {"observations": values, "actions": values + 1, "metadata": {}})
    import_npy(npy, store)
    whole = TrajectoryDataset(store)
    about = whole.metadata
    shutil.rmtree(store)
    with TrajectoryWriter(store, whole.schema, 2, metadata=about) as writer:
        for step in range(5):
            row = values[step] if step < 4 else values[step] * 2
            writer.add_step(observations=row, actions=values[step] + 1)
    with pytest.raises(StoreMismatchError, match=r"observations, step 4 is not what .*old\.npy"):
        import_npy(npy, store, resume=True)
    assert TrajectoryDataset(store).num_steps == 5
