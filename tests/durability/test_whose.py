"""A writer touches only the store that it opened, and a shard is read only in its own place."""

from __future__ import annotations

import copy
import errno
import fcntl
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import (
    BusyError,
    CorruptStoreError,
    InputError,
    Schema,
    StoreLockedError,
    StoreLostError,
    TrajectoryDataset,
    TrajectoryWriter,
    export_npy,
    verify_store,
)
from mosaic_collect.store.lock import LOCK_NAME
from mosaic_collect.store.shard import LABEL_NBYTES
from tests.durability.rig import add_tiny, check, open_tiny
from tests.helpers import contents, run_python

AWAY = "the shard does not belong there"


def assert_lost(writer: TrajectoryWriter, words: str, left_alone: str | None = None) -> None:
    """Whatever is called says so, and what lies under the path stays as it is."""
    before = contents(left_alone) if left_alone else {}
    with pytest.raises(StoreLostError, match=words):
        writer.commit()
    with pytest.raises(StoreLostError, match="nothing that lies there was touched"):
        add_tiny(writer)
    with pytest.raises(StoreLostError, match=words):
        writer.close()
    assert (contents(left_alone) if left_alone else {}) == before


def at_rest(writer: TrajectoryWriter) -> None:
    """Wait until nothing is being written: a folder that is written to cannot be removed whole."""
    writer._steps.settle_all()


class TestAnotherStoreUnderThePath:
    """What a lost notebook cell or a hung job would replace."""

    @pytest.mark.parametrize("committed", [False, True])
    def test_made_anew(self, store: str, committed: bool) -> None:
        first = open_tiny(store)
        add_tiny(first, 5)
        first.commit() if committed else at_rest(first)
        shutil.rmtree(store)
        with open_tiny(store) as second:
            add_tiny(second, 20)
        add_tiny(first)
        assert_lost(first, r"another (folder|store).* lies there now", store)
        assert check(store) == 20

    def test_made_anew_in_the_same_folder(self, store: str) -> None:
        """Its content was removed, the lock with it, and not the folder."""
        first = open_tiny(store)
        add_tiny(first, 5)
        at_rest(first)
        for name in os.listdir(store):
            path = os.path.join(store, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        with open_tiny(store) as second:
            add_tiny(second, 20)
        assert_lost(first, "another store, of 20 steps, lies there now", store)
        assert check(store) == 20

    def test_while_both_go_on(self, store: str) -> None:
        first = open_tiny(store)
        shutil.rmtree(store)
        with open_tiny(store) as second:
            for _ in range(10):
                add_tiny(second, 3)
                second.commit()
                if not first.closed:
                    with pytest.raises(StoreLostError):
                        _add_and_commit(first)
        with pytest.raises(StoreLostError):
            first.close()
        assert check(store) == 30

    def test_at_the_end_of_the_interpreter(self, store: str) -> None:
        code = (
            "import shutil\n"
            "first = open_tiny(sys.argv[1]); add_tiny(first, 5)\n"
            "first._steps.settle_all()\n"
            "shutil.rmtree(sys.argv[1])\n"
            "with open_tiny(sys.argv[1]) as second: add_tiny(second, 20)\n"
        )
        assert "StoreLostError" in python(code, store)
        assert check(store) == 20

    def test_removed(self, store: str) -> None:
        writer = open_tiny(store)
        add_tiny(writer, 3)
        at_rest(writer)
        shutil.rmtree(store)
        assert_lost(writer, "removed, or moved away.*the first 2 of the store")
        assert not os.path.exists(store)

    def test_another_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store of that name lies there, too."""
        for name, steps in (("here", 5), ("there", 50)):
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            writer = open_tiny("run.zarr")
            add_tiny(writer, steps)
            if name == "there":
                writer.close()
            else:
                first = writer
        first.close()
        assert check(str(tmp_path / "here/run.zarr")) == 5
        assert check(str(tmp_path / "there/run.zarr")) == 50

    def test_a_dataset_says_so_too(self, store: str) -> None:
        """Of rows that nobody recorded there would be fill values."""
        with open_tiny(store) as writer:
            add_tiny(writer, 7)
        dataset = TrajectoryDataset(store)
        shutil.rmtree(store)
        with open_tiny(store) as writer:
            add_tiny(writer, 3)
        for first, last in ((0, 2), (2, 4), (6, 7)):
            with pytest.raises(StoreLostError, match="was made since; open it anew, or refresh"):
                dataset.read("x", first, last)
        dataset.refresh()
        assert dataset.read("x").shape == (3, 2, 2)


def _add_and_commit(writer: TrajectoryWriter) -> None:
    add_tiny(writer, 3)
    writer.commit()


def python(code: str, store: str) -> str:
    """What a process says on standard error that runs this on a store."""
    return run_python("import sys; from tests.durability.rig import *\n" + code, store).stderr


class TestLock:
    """It follows the open file."""

    def test_reading_the_folder_takes_nothing_away(self, store: str, tmp_path: Path) -> None:
        with open_tiny(store) as writer:
            add_tiny(writer, 3)
            at_rest(writer)
            shutil.copytree(store, tmp_path / "backup")
            assert LOCK_NAME in contents(store)
            said = python("open_tiny(sys.argv[1], None, resume=True)", store)
            assert "StoreLockedError" in said
        assert check(store) == 3

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks(
        self,
        store: str,
        code: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is written to with a warning; who comes later wins, and the other is told."""
        without_locks(monkeypatch, code)
        with caplog.at_level(logging.WARNING):
            first = open_tiny(store)
        assert "this file system has no locks" in caplog.text
        add_tiny(first, 3)
        first.commit()
        with open_tiny(store, resume=True) as second:
            add_tiny(second, 4)
            add_tiny(first)
            told = r"another writer (came to it|went on with it, to [34] steps)"
            with pytest.raises(StoreLostError, match=told):
                first.commit()
        with pytest.raises(StoreLostError):
            first.close()
        assert check(store) == 7
        assert verify_store(store).ok


def without_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The kernel refuses every kind of lock."""

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    # Two writers of one process, as if they were of two machines.
    monkeypatch.setattr("mosaic_collect.store.lock._is_held_here", lambda fd: False)


class TestOneWriter:
    """Nobody doubles it, and two threads do not share it."""

    @pytest.mark.parametrize("double", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_it_is_not_copied(self, store: str, double: Any) -> None:
        with open_tiny(store) as writer:
            add_tiny(writer)
            for what in (writer, {"collector": [writer]}):
                if what is not writer and double is copy.copy:
                    continue
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    double(what)
            with pytest.raises(StoreLockedError):
                open_tiny(store, resume=True)
            add_tiny(writer)
        assert check(store) == 2

    def test_two_threads(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refused and not mixed: every step that was acknowledged is there, and no other."""
        with open_tiny(store) as writer:
            added, refused = [0, 0], [0, 0]

            def work(number: int) -> None:
                for _ in range(300):
                    try:
                        row = np.full((2, 2), number, np.float32)
                        writer.add_step(x=row)
                    except BusyError:
                        refused[number] += 1
                    else:
                        added[number] += 1

            threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
            monkeypatch.setattr(sys, "setswitchinterval", sys.setswitchinterval)
            sys.setswitchinterval(1e-6)
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                sys.setswitchinterval(0.005)
            assert writer.num_steps == sum(added)
        x = TrajectoryDataset(store).read("x")
        assert len(x) == sum(added)
        assert [int((x == n).all(axis=(1, 2)).sum()) for n in range(2)] == added

    def test_another_thread_is_told_while_one_is_inside(self, store: str) -> None:
        with open_tiny(store) as writer:
            inside, go = threading.Event(), threading.Event()

            def hold() -> None:
                with writer._calls:
                    inside.set()
                    go.wait(300)

            thread = threading.Thread(target=hold)
            thread.start()
            assert inside.wait(300)
            for call in (lambda: add_tiny(writer), writer.commit, writer.close):
                with pytest.raises(BusyError, match="another thread is in a call"):
                    call()
            go.set()
            thread.join()
            add_tiny(writer)
        assert check(store) == 1

    def test_a_lost_writer_is_taken_over(self, store: str) -> None:
        """A notebook's cell that failed; the name is gone."""

        def cell() -> None:
            writer = open_tiny(store)
            add_tiny(writer, 5)
            raise RuntimeError("the policy broke")

        with pytest.raises(RuntimeError):
            cell()
        with pytest.raises(StoreLockedError, match="takeover=True"):
            open_tiny(store, resume=True)
        with open_tiny(store, resume=True, takeover=True) as writer:
            assert writer.num_steps == 5
            add_tiny(writer)
        assert check(store) == 6
        with open_tiny(store + ".2", takeover=True):
            pass

    @pytest.mark.parametrize(
        "wrong",
        [
            {"schema": "mosaic"},
            {"num_envs": 0},
            {"metadata": {"a": object()}},
            {"robot": {"joint_names": 3}},
            {"device": "tpu"},
            {"compressor": "rar"},
            {"commit_seconds": -1},
            {"buffer_mb": 0},
            {"threads": 0},
            {"encode_in": "the cloud"},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_a_refused_takeover_closes_no_writer(self, store: str, wrong: Any) -> None:
        with open_tiny(store) as writer:
            with pytest.raises(InputError):
                TrajectoryWriter(store, resume=True, takeover=True, **wrong)
            add_tiny(writer)
        assert check(store) == 1


@pytest.fixture
def two(store: str) -> tuple[str, str]:
    """Two recordings of one schema and other values, seven steps each."""
    other = store + ".other"
    schema = Schema.mosaic(obs_dim=3, action_dim=2)
    for path, sign in ((store, 1), (other, -1)):
        with open_tiny(path, schema, compressor="auto") as writer:
            for step in range(7):
                row = np.full((2, 3), sign * (step + 1), np.float32)
                mean = row[:, :2]
                # The one acts by its mean, so that the two fields share their files.
                acted = mean if path == store else mean + 1
                writer.add_step(observations=row, actions=acted, action_mean=mean)
    return store, other


class TestMisplacedShards:
    """A good checksum says nothing of whose bytes they are."""

    def assert_told(self, store: str, words: str) -> None:
        field = words.split(",", maxsplit=1)[0]
        with pytest.raises(CorruptStoreError, match=words):
            TrajectoryDataset(store).read(field)
        problems = verify_store(store).problems
        assert any(words in problem for problem in problems), problems
        with pytest.raises(CorruptStoreError, match=words):
            export_npy(store, store + ".npy", layout="grid")
        assert not os.path.exists(store + ".npy")

    def test_of_another_recording(self, two: tuple[str, str]) -> None:
        store, other = two
        shutil.copy(f"{other}/observations/c.1.0.0", f"{store}/observations/c.1.0.0")
        self.assert_told(store, f"observations, block 1: {AWAY}: it belongs")

    def test_of_a_tool_that_writes_no_labels(self, two: tuple[str, str]) -> None:
        store, _ = two
        path = Path(f"{store}/observations/c.1.0.0")
        path.write_bytes(bytes(LABEL_NBYTES) + path.read_bytes()[LABEL_NBYTES:])
        self.assert_told(store, "observations, block 1, label: there is none")

    def test_two_blocks_swapped(self, two: tuple[str, str]) -> None:
        store, _ = two
        names = [f"{store}/observations/c.{b}.0.0" for b in (0, 1)]
        os.rename(names[0], store + ".x")
        os.rename(names[1], names[0])
        os.rename(store + ".x", names[1])
        self.assert_told(store, f"observations, block 0: {AWAY}: it is block 1")

    def test_of_another_field(self, two: tuple[str, str]) -> None:
        _, other = two
        shutil.copy(f"{other}/actions/c.1.0.0", f"{other}/action_mean/c.1.0.0")
        self.assert_told(other, f"action_mean, block 1: {AWAY}: it holds")

    def test_older_than_the_last_commit(self, store: str) -> None:
        writer = open_tiny(store)
        add_tiny(writer)
        writer.commit()
        shutil.copy(f"{store}/x/c.0.0.0", store + ".old")
        add_tiny(writer, 2)
        writer.close()
        os.replace(store + ".old", f"{store}/x/c.0.0.0")
        self.assert_told(store, f"x, block 0: {AWAY}: it is older")

    def test_of_another_continuation(self, store: str, tmp_path: Path) -> None:
        """A backup was put back and recorded further, and then met what came of the other."""
        with open_tiny(store) as writer:
            add_tiny(writer, 4)
        backup = str(tmp_path / "backup.zarr")
        shutil.copytree(store, backup)
        for path in (store, backup):
            with open_tiny(path, resume=True) as writer:
                add_tiny(writer, 4)
        shutil.copy(f"{backup}/x/c.2.0.0", f"{store}/x/c.2.0.0")
        self.assert_told(store, f"x, block 2: {AWAY}: it is of another run")

    def test_backups_through_links(self, two: tuple[str, str], tmp_path: Path) -> None:
        """The first kept the links of equal fields, the second wrote into its files."""
        store, other = two
        backup = str(tmp_path / "backup.zarr")
        subprocess.run(["cp", "-a", store, backup], check=True)
        assert os.path.samefile(f"{backup}/actions/c.0.0.0", f"{backup}/action_mean/c.0.0.0")
        subprocess.run(["cp", "-r", other + "/.", backup], check=True)
        assert not verify_store(backup).ok
        with pytest.raises(CorruptStoreError, match=AWAY):
            TrajectoryDataset(backup).read("actions"), TrajectoryDataset(backup).read("action_mean")

    def test_equal_fields_share_what_is_both_theirs(self, two: tuple[str, str]) -> None:
        store, other = two
        assert os.path.samefile(f"{store}/actions/c.0.0.0", f"{store}/action_mean/c.0.0.0")
        assert verify_store(store).ok
        # Where they are not equal, the one is not the other's.
        os.remove(f"{other}/action_mean/c.0.0.0")
        os.link(f"{other}/actions/c.0.0.0", f"{other}/action_mean/c.0.0.0")
        self.assert_told(other, f"action_mean, block 0: {AWAY}: it holds")


class TestTheStateIsThereTwice:
    """Tools that add to a group may drop what they do not know."""

    @pytest.mark.filterwarnings("ignore:Consolidated metadata")
    def test_xarray_adds_a_variable(self, store: str, caplog: pytest.LogCaptureFixture) -> None:
        xarray = pytest.importorskip("xarray")
        with open_tiny(store) as writer:
            add_tiny(writer, 5)
        derived = TrajectoryDataset(store).to_xarray().x.mean("x_dim").rename("speed").load()
        xarray.Dataset({"speed": derived}).to_zarr(store, mode="a")
        with caplog.at_level(logging.WARNING):
            assert check(store) == 5
        assert "has lost the store's state" in caplog.text
        (problem,) = verify_store(store).problems
        assert "opening the store to write puts it right" in problem
        with open_tiny(store, resume=True) as writer:
            add_tiny(writer, 2)
        assert check(store) == 7
        report = verify_store(store)
        assert report.ok
        assert any("speed" in note for note in report.notes)
        again = TrajectoryDataset(store)
        assert np.array_equal(again.to_zarr()["speed"][:5], derived.values)
        assert "speed" not in again.to_xarray(), "which would not fit any more"
        assert again.to_xarray().sizes["step"] == 7

    def test_additions_are_kept(self, store: str) -> None:
        zarr = pytest.importorskip("zarr")
        with open_tiny(store) as writer:
            add_tiny(writer, 3)
        group = zarr.open_group(store, mode="r+")
        group.attrs["note"] = "the good one"
        group["x"].attrs["units"] = "rad"
        assert verify_store(store).ok
        with open_tiny(store, resume=True) as writer:
            add_tiny(writer)
        group = zarr.open_group(store, mode="r")
        assert group.attrs["note"] == "the good one"
        assert dict(group["x"].attrs) in ({}, {"units": "rad"})  # the consolidated ones are ours
        assert zarr.open_array(f"{store}/x", mode="r").attrs["units"] == "rad"
        assert check(store) == 4

    def test_additions_while_it_is_recorded(self, store: str) -> None:
        zarr = pytest.importorskip("zarr")
        with open_tiny(store) as writer:
            add_tiny(writer, 2)
            writer.commit()
            zarr.open_group(store, mode="r+").attrs["note"] = "seen"
            add_tiny(writer, 2)
        assert check(store) == 4
        assert TrajectoryDataset(store).state.foreign_attributes == {"note": "seen"}

    def test_the_spare_copy_follows_every_commit(self, store: str) -> None:
        with open_tiny(store) as writer:
            for steps in range(1, 6):
                add_tiny(writer)
                writer.update_metadata(steps=steps)
                writer.commit()
                lost = store + f".{steps}"
                shutil.copytree(store, lost)
                path = Path(lost, "zarr.json")
                path.write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
                assert check(lost) == steps
                assert TrajectoryDataset(lost).metadata == {"steps": steps}
