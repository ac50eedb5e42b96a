"""The motion queue and its ledger; no simulator needed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect.collection.motion_queue import MotionQueue, refuse_gone
from mosaic_collect.collection.motions import (
    Motion,
    file_sha256,
    find_motions,
    motion_files,
    read_motions,
)
from mosaic_collect.errors import InputError, StoreMismatchError
from tests.helpers import motion_arrays


def write_motion(path: Path, frames: int, value: float = 0.0) -> Path:
    np.savez(path, **motion_arrays(np.full((frames, 3), value)))
    return path


def motions(count: int) -> list[Motion]:
    return [Motion(f"/m/{i}.npz", f"{i:064x}", 10 + i) for i in range(count)]


def told(queue: MotionQueue) -> dict[str, Any]:
    """The ledger as a store gives it back."""
    return json.loads(json.dumps(queue.ledger()))


class TestFinding:
    def test_a_file(self, tmp_path: Path) -> None:
        path = write_motion(tmp_path / "one.npz", 7)
        assert find_motions(str(path)) == [Motion(str(path), file_sha256(str(path)), 7)]

    def test_twins_only_once(self, tmp_path: Path) -> None:
        write_motion(tmp_path / "b.npz", 5)
        (tmp_path / "a.npz").write_bytes((tmp_path / "b.npz").read_bytes())
        found = find_motions(str(tmp_path))
        assert [os.path.basename(m.path) for m in found] == ["a.npz"]

    def test_a_folder_at_any_depth_by_path(self, tmp_path: Path) -> None:
        for value, name in enumerate(("b/c", "b/a", "a", "c")):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_motion(tmp_path / f"{name}.npz", 5 + value, value)
        (tmp_path / "notes.txt").write_text("no motion")
        found = [os.path.relpath(path, tmp_path) for path in motion_files(str(tmp_path))]
        assert found == ["a.npz", "b/a.npz", "b/c.npz", "c.npz"]
        motions = find_motions(str(tmp_path))
        assert [m.path for m in motions] == motion_files(str(tmp_path))
        assert [m.frames for m in motions] == [7, 6, 5, 8]

    def test_hidden_ones_are_no_motions(self, tmp_path: Path) -> None:
        """Copies that other systems make beside files, and checkpoints of notebooks."""
        home = tmp_path / ".data"  # what holds the folder may be hidden
        for name in ("a", "._a", ".ipynb_checkpoints/a-checkpoint", "b/.hidden/c", "b/c"):
            (home / name).parent.mkdir(exist_ok=True, parents=True)
            (home / f"{name}.npz").write_bytes(b"Mac OS X")
        write_motion(home / "a.npz", 5)
        write_motion(home / "b/c.npz", 6)
        assert [m.frames for m in find_motions(home)] == [5, 6]
        write_motion(home / ".one.npz", 7)
        assert [m.frames for m in find_motions(home / ".one.npz")] == [7]

    def test_files_in_any_order(self, tmp_path: Path) -> None:
        paths = [str(write_motion(tmp_path / f"{n}.npz", 5 + n)) for n in range(3)]
        assert (
            read_motions(reversed(paths)) == read_motions(paths * 2) == find_motions(str(tmp_path))
        )

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="found none"):
            find_motions(str(tmp_path))

    def test_identity_is_content_and_not_the_name(self, tmp_path: Path) -> None:
        one = find_motions(str(write_motion(tmp_path / "one.npz", 7)))[0]
        os.replace(tmp_path / "one.npz", tmp_path / "two.npz")
        two = find_motions(str(tmp_path / "two.npz"))[0]
        assert one.sha256 == two.sha256
        assert find_motions(str(write_motion(tmp_path / "x.npz", 7, 1.0)))[0].sha256 != one.sha256


class TestQueue:
    def test_goes_round_without_end(self) -> None:
        queue = MotionQueue(motions(3))
        assert [queue.next() for _ in range(8)] == [0, 1, 2, 0, 1, 2, 0, 1]
        assert not queue.exhausted

    def test_so_many_passes(self) -> None:
        queue = MotionQueue(motions(3), passes=2)
        assert [queue.next() for _ in range(9)] == [0, 1, 2, 0, 1, 2, -1, -1, -1]

    def test_exhausted_only_when_all_have_ended(self) -> None:
        queue = MotionQueue(motions(2), passes=1)
        assert [queue.next(), queue.next(), queue.next()] == [0, 1, -1]
        assert not queue.exhausted
        queue.finish(1, completed=True)
        assert not queue.exhausted
        queue.finish(0, completed=False)
        assert queue.exhausted
        assert (queue.completed, queue.fell) == (1, 1)

    def test_a_motion_that_was_put_back_comes_again(self) -> None:
        queue = MotionQueue(motions(3), passes=1)
        assert [queue.next(), queue.next()] == [0, 1]
        queue.put_back(1)
        assert [queue.next() for _ in range(3)] == [1, 2, -1]

    def test_counts_by_motion(self) -> None:
        queue = MotionQueue(motions(3))
        for motion, completed in ((0, True), (2, False), (2, True), (2, True)):
            queue.finish(motion, completed)
        assert queue.counts() == {"completed": [1, 0, 2], "fell": [0, 0, 1]}
        assert told(queue)["motion_counts"] == queue.counts()

    def test_a_copy_draws_for_itself(self) -> None:
        queue = MotionQueue(motions(2), 1, told(MotionQueue(motions(3)[1:])))
        queue.finish(0, completed=True)
        copy = queue.copy()
        assert (copy.motions, copy.present) == (queue.motions, queue.present)
        assert copy.counts() == queue.counts()
        assert [copy.next(), copy.next()] == [2, -1]
        copy.finish(2, completed=False)
        assert [queue.next(), queue.next(), queue.next()] == [0, 2, -1]
        assert queue.counts() == {"completed": [1, 0, 0], "fell": [0, 0, 0]}

    def test_counts_are_copies(self) -> None:
        queue = MotionQueue(motions(1))
        before = queue.counts()
        queue.finish(0, completed=True)
        assert before == {"completed": [0], "fell": [0]}


class TestLedger:
    def test_goes_on_where_it_ended(self) -> None:
        queue = MotionQueue(motions(3), passes=2)
        for _ in range(4):
            queue.next()
        for motion in (0, 1, 0):
            queue.finish(motion, completed=True)
        # Motion 2 was running when the run ended: it is run again, as if never begun.
        resumed = MotionQueue(motions(3), 2, told(queue))
        assert [resumed.next() for _ in range(4)] == [2, 1, 2, -1]
        assert resumed.completed == 3

    def test_an_exhausted_one_stays_so(self) -> None:
        queue = MotionQueue(motions(2), passes=1)
        for motion in (0, 1):
            queue.finish(motion, completed=True)
        resumed = MotionQueue(motions(2), 1, told(queue))
        assert resumed.exhausted
        assert resumed.next() == -1
        more = MotionQueue(motions(2), 2, told(queue))
        assert not more.exhausted
        assert [more.next() for _ in range(3)] == [0, 1, -1]

    def test_ids_stay_when_the_list_is_shuffled_moved_and_extended(self) -> None:
        queue = MotionQueue(motions(4))
        queue.finish(3, completed=True)
        moved = [Motion(f"/elsewhere/{m.path[-5:]}", m.sha256, m.frames) for m in motions(6)]
        random.Random(0).shuffle(moved)
        resumed = MotionQueue(moved, None, told(queue))
        assert [m.sha256 for m in resumed.motions][:4] == [m.sha256 for m in motions(4)]
        assert {m.sha256 for m in resumed.motions[4:]} == {m.sha256 for m in motions(6)[4:]}
        assert all(m.path.startswith("/elsewhere/") for m in resumed.motions)
        assert resumed.counts()["completed"] == [0, 0, 0, 1, 0, 0]
        first = [resumed.next() for _ in range(6)]
        assert first == [0, 1, 2, 4, 5, 0], "the least recorded come first"

    def test_one_that_is_gone_keeps_its_id_and_is_not_run(self) -> None:
        queue = MotionQueue(motions(3), passes=1)
        resumed = MotionQueue(motions(3)[1:], 1, told(queue))
        assert [m.sha256 for m in resumed.motions] == [m.sha256 for m in motions(3)]
        assert [resumed.next() for _ in range(3)] == [1, 2, -1]
        for motion in (1, 2):
            resumed.finish(motion, completed=True)
        assert resumed.exhausted

    def test_all_gone(self) -> None:
        resumed = MotionQueue([], 1, told(MotionQueue(motions(2))))
        assert resumed.next() == -1

    def test_missing_ones_are_named(self) -> None:
        ledger = told(MotionQueue(motions(3)))
        refuse_gone(motions(3), ledger, "s.zarr")
        refuse_gone(motions(3), {}, "s.zarr")
        refuse_gone(motions(3)[::2], ledger, "s.zarr", ["motions"])
        with pytest.raises(StoreMismatchError, match=r"s\.zarr .* 1 motions .* /m/1\.npz first"):
            refuse_gone(motions(3)[::2], ledger, "s.zarr")

    @pytest.mark.parametrize("runs", range(20))
    def test_every_motion_gets_its_passes_whatever_the_interrupts(self, runs: int) -> None:
        """Runs of random length, each with several environments, until all is done."""
        generator = random.Random(runs)
        ledger: dict[str, Any] = {}
        ended = [0] * 5
        for _ in range(200):
            queue = MotionQueue(motions(5), 3, ledger)
            running = [queue.next() for _ in range(3)]
            for _ in range(generator.randrange(8)):
                env = generator.randrange(3)
                if running[env] >= 0:
                    queue.finish(running[env], generator.random() < 0.5)
                    ended[running[env]] += 1
                    running[env] = queue.next()
            ledger = told(queue)
            if queue.exhausted:
                break
        assert queue.exhausted
        assert ended == [3] * 5
