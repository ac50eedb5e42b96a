"""Any history of adding, ending, committing, closing, dying and resuming, against a model.

The model is a list of steps. After every rule a freshly opened dataset must hold a prefix of it,
bit for bit: at least what a commit or a close promised, never less than was seen before. A
crash takes the file system away after some number of operations, so any instant may be the last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.errors import InputError, WriteError
from mosaic_collect.reading.verify import trajectory_problems
from mosaic_collect.store.schema import ENDED, FAILED, TRAJECTORY_END
from tests.helpers import assert_same, buffer_mb, mask, rows
from tests.recording.mortal_files import MortalFiles

SCHEMA = Schema.mosaic(2, 1, extra=(Field(name="phase", dtype="int16"),)).with_ends()


@dataclass(frozen=True)
class Step:
    """One added step: what it was given, which trajectory each environment was in, which ended."""

    given: dict[str, np.ndarray]
    mask: np.ndarray | None
    tokens: np.ndarray
    how: np.ndarray


class Collection(RuleBasedStateMachine):
    """A store, its writer if there is one, and what they should hold."""

    @initialize(
        num_envs=st.integers(1, 4),
        block_steps=st.integers(1, 4),
        compressor=st.sampled_from(["auto", "lz4", "zstd", "none"]),
        left_out=st.sets(st.sampled_from(["action_mean", "action_sigma"])),
        chunk_nbytes=st.sampled_from([20, 1 << 20]),
    )
    def begin(
        self,
        num_envs: int,
        block_steps: int,
        compressor: str,
        left_out: set[str],
        chunk_nbytes: int,
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="mosaic-machine-")
        self.path = os.path.join(self.folder, "s.zarr")
        self.files = MortalFiles()
        self.patches = [
            mock.patch("mosaic_collect.store.posix.PosixFiles", return_value=self.files),
            mock.patch("mosaic_collect.store.grid.CHUNK_NBYTES", chunk_nbytes),
        ]
        for patch in self.patches:
            patch.start()
        self.num_envs, self.left_out, self.compressor = num_envs, left_out, compressor
        self.buffer_mb = buffer_mb(block_steps, num_envs, SCHEMA)
        self.writer: TrajectoryWriter | None = None
        self.steps: list[Step] = []
        self.ends: list[int] = []  # after how many steps each ended trajectory ended
        self.promised = self.promised_ends = 0
        self.ids = np.zeros((0, num_envs), np.int64)
        self.numbers = self.tokens_used = 0
        self.status = "collecting"
        self.held: TrajectoryDataset | None = None
        self.born = False
        self.open(fuel=None, bare=False, ring=1.0)

    def teardown(self) -> None:
        if hasattr(self, "files"):
            self.die(0)
            for patch in self.patches:
                patch.stop()
            shutil.rmtree(self.folder)

    def read(self) -> TrajectoryDataset:
        return TrajectoryDataset(self.path, threads=1)

    # -- rules -----------------------------------------------------------------------------------

    @precondition(lambda self: self.writer is None)
    @rule(
        fuel=st.none() | st.integers(0, 40),
        bare=st.booleans(),
        ring=st.sampled_from([1.0, 3.0]),
    )
    def open(self, fuel: int | None, bare: bool, ring: float) -> None:
        """Create or resume; perhaps be killed on the way."""
        known = self.born and bare
        self.files.fuel = fuel
        try:
            self.writer = TrajectoryWriter(
                self.path,
                None if known else SCHEMA,
                None if known else self.num_envs,
                buffer_mb=ring * self.buffer_mb,
                compressor="auto" if known else self.compressor,
                resume=os.path.exists(self.path),
                commit_seconds=None,
                threads=2,
            )
        except OSError:
            assert fuel is not None
            return
        finally:
            self.files.fuel = None
        self.born = True
        assert self.writer.num_steps == len(self.steps)
        self.first = len(self.steps)
        self.open_envs = np.zeros(self.num_envs, bool)
        self.current = self.new_tokens(self.num_envs)

    @precondition(lambda self: self.writer)
    @rule(masked=st.booleans(), bad=st.sets(st.integers(0, 3)), times=st.integers(1, 3))
    def add(self, masked: bool, bad: set[int], times: int) -> None:
        for _ in range(times):
            self.add_one(masked, bad)

    def add_one(self, masked: bool, bad: set[int]) -> None:
        self.numbers += 1
        given = rows(self.numbers, self.num_envs, SCHEMA)
        for env in bad:
            if env < self.num_envs:
                given["observations"][env, 1] = np.nan
        step = Step(
            {n: v for n, v in given.items() if n not in self.left_out},
            mask(self.numbers, self.num_envs) if masked else None,
            self.current.copy(),
            np.zeros(self.num_envs, np.uint8),
        )
        # Even if the call fails, its rows may count: it may be a commit before them that failed.
        self.writer.add_step(**step.given, valid_mask=step.mask)
        for value in given.values():
            value.setflags(write=False)
        self.steps.append(step)
        self.open_envs[:] = True

    @precondition(lambda self: self.writer)
    @rule(envs=st.sets(st.integers(0, 3)), failed=st.sets(st.integers(0, 3)))
    def end(self, envs: set[int], failed: set[int]) -> None:
        named = np.array(sorted(e for e in envs if e < self.num_envs), np.int64)
        fell = np.isin(named, list(failed))
        self.writer.end_trajectories(named.tolist(), named[fell].tolist())
        ended = named[self.open_envs[named]]
        if len(ended):
            self.steps[-1].how[ended] = np.where(np.isin(ended, named[fell]), FAILED, ENDED)
        self.ends += [len(self.steps)] * len(ended)
        self.current[ended] = self.new_tokens(len(ended))
        self.open_envs[ended] = False

    @precondition(lambda self: self.writer)
    @rule()
    def commit(self) -> None:
        self.writer.commit()
        self.promised, self.promised_ends = len(self.steps), len(self.ends)
        assert self.read().num_steps == len(self.steps)
        self.check_last_ends(self.read())

    @precondition(lambda self: self.writer)
    @rule(complete=st.booleans())
    def close(self, complete: bool) -> None:
        self.writer.close(complete=complete)
        self.writer = None
        self.promised, self.promised_ends = len(self.steps), len(self.ends)
        if complete:
            self.status = "complete"
        elif len(self.steps) > self.first:
            self.status = "collecting"
        dataset = self.read()
        assert dataset.status == self.status
        assert dataset.num_steps == len(self.steps)
        assert dataset.num_ended == len(self.ends)
        self.check_last_ends(dataset)

    @precondition(lambda self: self.writer)
    @rule(fuel=st.integers(0, 60), more=st.integers(0, 6), then=st.sampled_from(["add", "commit"]))
    def crash(self, fuel: int, more: int, then: str) -> None:
        """Be killed after ``fuel`` more operations on files, or after some more calls."""
        self.files.fuel = fuel
        with contextlib.suppress(WriteError):
            for _ in range(more):
                self.add_one(masked=True, bad=set())
                if then == "commit":
                    self.commit()
        self.die(0)

    def die(self, fuel: int) -> None:
        """Nothing reaches the disk any more; what is left is what a kill would have left."""
        if self.writer is None:
            return
        self.files.fuel = fuel
        with contextlib.suppress(WriteError):
            self.writer.close()
        self.writer, self.files.fuel = None, None
        dataset = self.read()
        kept = dataset.num_steps
        assert self.promised <= kept <= len(self.steps)
        self.check_ends(dataset)
        # Ends after the last kept step were committed or not: either is right.
        self.ends = [e for e in self.ends if e <= kept][: dataset.num_ended]
        self.steps = self.steps[:kept]
        if kept:
            self.check_how(dataset)
            self.steps[-1].how[:] = dataset.read(TRAJECTORY_END, kept - 1)[0]
        self.promised, self.promised_ends = kept, len(self.ends)
        assert dataset.status in {self.status, "collecting"}
        self.status = dataset.status

    @precondition(lambda self: self.writer)
    @rule(what=st.sampled_from(["shape", "dtype", "unknown", "missing", "optional", "env"]))
    def be_wrong(self, what: str) -> None:
        """A refused call leaves no trace."""
        given: dict[str, Any] = rows(10**6, self.num_envs, SCHEMA)
        given = {n: v for n, v in given.items() if n not in self.left_out}
        optional = {"action_mean", "action_sigma"}
        if what == "shape":
            given["actions"] = given["actions"][:, :0]
        elif what == "dtype":
            given["phase"] = given["phase"].astype(np.int64)
        elif what == "unknown":
            given["reward"] = given["phase"]
        elif what == "missing":
            del given["observations"]
        elif what == "env":
            with pytest.raises(InputError):
                self.writer.end_trajectories([0, self.num_envs])
            return
        elif self.steps:  # the first step has decided
            for name in optional & set(given):
                del given[name]
            given.update({n: np.zeros((self.num_envs, 1), np.float32) for n in self.left_out})
        else:
            return
        with pytest.raises(InputError):
            self.writer.add_step(**given, valid_mask=np.zeros(self.num_envs, bool))

    @precondition(lambda self: self.born)
    @rule()
    def hold(self) -> None:
        """Keep a dataset open from now on: what it shows must never change."""
        self.held = self.read()

    # -- what must be true -----------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "files") and self.born)
    @invariant()
    def the_store_holds_a_prefix(self) -> None:
        dataset = self.read()
        seen = dataset.num_steps
        assert self.promised <= seen <= len(self.steps)
        self.promised = seen
        self.check_rows(dataset)
        self.check_ids(dataset)
        self.check_ends(dataset)
        assert trajectory_problems(dataset.view.parts[0]) == []
        if self.held is not None:
            self.check_rows(self.held)

    def check_rows(self, dataset: TrajectoryDataset) -> None:
        steps = self.steps[: dataset.num_steps]
        n = self.num_envs
        masks = [np.ones(n, bool) if s.mask is None else s.mask for s in steps]
        given = [SCHEMA[name] for name in SCHEMA.names]
        want = {f.name: [self.stored(s, f) for s in steps] for f in given}
        for name, values in [*want.items(), ("valid_mask", masks)]:
            field = SCHEMA[name]
            empty = np.zeros((0, n, *field.row_shape), field.dtype)
            assert_same(dataset.read(name), np.stack(values) if values else empty, name)
        assert dataset.num_valid == sum(int(m.sum()) for m in masks)
        assert dataset.state.has_mask == any(s.mask is not None for s in steps)
        bad = {
            f.name: sum(
                int((~np.isfinite(v).reshape(n, -1).all(axis=1)).sum()) for v in want[f.name]
            )
            for f in given
            if f.dtype == "float32"
        }
        assert dataset.state.nonfinite == bad
        self.check_how(dataset)

    def check_how(self, dataset: TrajectoryDataset) -> None:
        """How trajectories ended; of the last committed row it may be there already, or not yet."""
        got = dataset.read(TRAJECTORY_END)
        if len(got):
            want = np.stack([s.how for s in self.steps[: len(got)]])
            assert_same(got[:-1], want[:-1])
            assert ((got[-1] == want[-1]) | (got[-1] == 0)).all()

    def check_last_ends(self, dataset: TrajectoryDataset) -> None:
        """After a promise it is there."""
        if self.steps:
            assert_same(dataset.read(TRAJECTORY_END)[-1], self.steps[-1].how)

    def stored(self, step: Step, field: Field) -> np.ndarray:
        if field.name in step.given:
            return step.given[field.name]
        if isinstance(field.default, str):
            return step.given[field.default]
        return np.full((self.num_envs, *field.row_shape), field.default, field.dtype)

    def check_ids(self, dataset: TrajectoryDataset) -> None:
        """One id a trajectory and one trajectory an id, over the store's whole life."""
        got = dataset.read("trajectory_id")
        assert_same(got[: len(self.ids)], self.ids)
        self.ids = got
        if len(got):
            tokens = np.stack([s.tokens for s in self.steps[: len(got)]])
            pairs = set(zip(tokens.ravel().tolist(), got.ravel().tolist(), strict=True))
            assert len(pairs) == len({t for t, _ in pairs}) == len({i for _, i in pairs})
            assert got.min() >= 0

    def check_ends(self, dataset: TrajectoryDataset) -> None:
        """An end is committed with the step after it at the latest."""
        least = sum(e < dataset.num_steps for e in self.ends)
        most = sum(e <= dataset.num_steps for e in self.ends)
        assert max(least, self.promised_ends) <= dataset.num_ended <= most

    def new_tokens(self, count: int) -> np.ndarray:
        self.tokens_used += count
        return np.arange(self.tokens_used - count, self.tokens_used)


TestCollection = Collection.TestCase
TestCollection.settings = settings(
    max_examples=30, stateful_step_count=30, report_multiple_bugs=False
)
