"""Is a store what it says it is? Every checksum, and every agreement of metadata and files."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from mosaic_collect.errors import CorruptStoreError, StoreMismatchError
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.numbering import ended_motions
from mosaic_collect.reading.store_set import never_joined
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.counts import nonfinite_pairs
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    SPARE,
    StoreState,
    array_metadata,
    root_document,
)
from mosaic_collect.store.parsing import object_in
from mosaic_collect.store.ranks import Addresses, Place, Recording
from mosaic_collect.store.schema import (
    GOES_ON,
    TRAJECTORY_END,
    TRAJECTORY_ID,
    TRUNCATED,
    VALID_MASK,
)
from mosaic_collect.store.view import DOCUMENT, StoreView, looked_through, read_document, read_state

_MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification.

    Attributes:
        path: Store or file that was verified.
        problems: Sentences, each naming a place; empty if all is well.
        notes: Harmless findings, such as files left by a killed run.
        checked: Number of shards (of a store) or arrays (of a file).
        nbytes: Bytes read and checked.
        seconds: Duration.
    """

    path: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    checked: int
    nbytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def verify_store(
    path: Addresses,
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> VerifyReport:
    """Read everything that is committed and hold it against its checksums and the metadata.

    Args:
        path: The store; or several, as ``TrajectoryDataset`` takes them, whose report is one. Ranks
            must all be there, be of their folder, and no two have recorded one motion.
        progress: Told the shards checked since the last call.
        engine: Who reads; None: threads here.

    Raises:
        StoreNotFoundError, NewerFormatError: Nothing here that could be verified.
        ClusterError: The cluster cannot do the work.
    """
    place, total = Place.of(path), _Findings()
    try:
        found = place.find()
    except CorruptStoreError as error:
        total.problems.append(str(error))
        return total.report(place.address)
    reports = list[VerifyReport]()
    for one in found:
        states = dict[str, StoreState]()
        for name, blobs in one.stores.items():
            report, state = _verify_one(blobs, one.document, progress, engine)
            reports.append(report)
            if state is not None:
                states[name] = state
        if one.is_multi_rank:
            _compare_ranks(one, states, total)
    if place.is_one and not found[0].is_multi_rank:
        return reports[0]
    for report in reports:
        total.problems += [f"{report.path}: {problem}" for problem in report.problems]
        total.notes += [f"{report.path}: {note}" for note in report.notes]
        total.checked += report.checked
        total.nbytes += report.nbytes
    return total.report(place.address)


@dataclass
class _Findings:
    """What a verification found so far; the attributes are those of its report."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: int = 0
    nbytes: int = 0
    start: float = field(default_factory=time.monotonic)

    def report(self, path: str) -> VerifyReport:
        """The report on a place, as of now."""
        problems, notes = tuple(self.problems[:_MAX_PROBLEMS]), tuple(self.notes)
        seconds = time.monotonic() - self.start
        return VerifyReport(path, problems, notes, self.checked, self.nbytes, seconds)


def _compare_ranks(found: Recording, states: Mapping[str, StoreState], total: _Findings) -> None:
    """Add the contradictions between the stores of a multi-rank dataset that can be read."""
    gone = [f"{name}: a rank joined, and its store is not there" for name in found.missing()]
    total.problems += gone
    recorded = defaultdict[str, list[str]](list)
    for name, state in states.items():
        for motion in ended_motions(state.metadata):
            recorded[motion].append(name)
        try:
            found.check(name, state)
        except StoreMismatchError as error:
            total.problems.append(str(error))
    total.problems += [
        f"{found.blobs.address}: motion {motion} was recorded by {' and '.join(names)}"
        for motion, names in recorded.items()
        if len(names) > 1
    ]
    if late := never_joined(found, [state.metadata for state in states.values()]):
        total.notes.append(f"{', '.join(late)}: ranks that never joined")


def _verify_one(
    blobs: Blobs,
    document: bytes | None,
    progress: Callable[[int], object] | None,
    engine: Engine | None,
) -> tuple[VerifyReport, StoreState | None]:
    """Verify a store; its state is None if it cannot be read, or has had no commit."""
    found, view = _Findings(), None
    try:
        view = StoreView.of(blobs, document)
    except CorruptStoreError as error:
        found.problems.append(str(error))
    else:
        if view is None:
            found.notes.append("killed before its first commit: zero steps")
    if view is not None:
        _check_documents(view, found)
        _check_shards(view, found, progress or (lambda count: None), engine or Engine())
    return found.report(blobs.address), None if view is None else view.state


def _own(root: Any) -> dict[str, Any]:
    """A root document with its consolidated arrays as they are without attributes.

    Tools that consolidate, as zarr does, copy those of the arrays' own documents.
    """
    consolidated = object_in(root, "consolidated_metadata")
    arrays = object_in(consolidated, "metadata")
    bare = {
        name: {**array, "attributes": {}} if isinstance(array, dict) else array
        for name, array in arrays.items()
    }
    return {**root, "consolidated_metadata": {**consolidated, "metadata": bare}}


def _check_documents(view: StoreView, found: _Findings) -> None:
    """Hold each ``zarr.json`` against what the state would write."""
    root, state = _json(view), view.state
    if ATTRIBUTE not in object_in(root, "attributes"):
        found.problems.append(
            f"zarr.json: has lost the store's state, which was read from {SPARE}/zarr.json; "
            "opening the store to write puts it right"
        )
    elif _own(root) != _own(json.loads(root_document(state))):
        found.problems.append("zarr.json: the consolidated arrays contradict the store's state")
    added = sorted([*state.foreign_attributes, *state.foreign_arrays])
    if added:
        names = ", ".join(added[:8])
        found.notes.append(f"zarr.json: attributes or arrays that others added: {names}")
    for name in view.grids:
        _check_array_document(view, name, found)
    if found.problems and read_state(view.blobs) != state:
        found.problems.clear()
        found.notes.append("a writer is at work: the zarr.json documents were not compared")


def _check_array_document(view: StoreView, name: str, found: _Findings) -> None:
    document, committed = _json(view, name), view.state.committed_steps
    shape = document.get("shape") if isinstance(document, dict) else None
    steps = shape[0] if isinstance(shape, list) and shape else None
    if type(steps) is not int or not 0 <= steps <= committed:
        found.problems.append(f"{name}/zarr.json: missing, damaged, or ahead of the store")
        return
    lagging, told = replace(view.state, committed_steps=steps), object_in(document, "attributes")
    # Its attributes are others', but for the spare copy of the state.
    if {**document, "attributes": {}} != array_metadata(lagging, name):
        found.problems.append(f"{name}/zarr.json: contradicts the store's state")
    elif name == SPARE and ATTRIBUTE not in told:
        found.problems.append(f"{name}/zarr.json: lacks its copy of the store's state")
    elif steps < committed:
        found.notes.append(
            f"{name}/zarr.json lags at step {steps}: a writer is at work or was killed"
            "; opening to write mends"
        )


def _json(view: StoreView, folder: str = "") -> Any:
    try:
        return json.loads(read_document(view.blobs, folder) or b"null")
    except (OSError, CorruptStoreError, ValueError, RecursionError):
        return None


def _check_shards(
    view: StoreView, found: _Findings, progress: Callable[[int], object], engine: Engine
) -> None:
    """Check every committed shard, field by field and block by block in order."""
    state, counts = view.state, Counter[str]()
    missing, _ = looked_through(view.blobs, state, _MAX_PROBLEMS)
    if len(missing) == _MAX_PROBLEMS:
        # Not damage but a lie, perhaps of more blocks than could be looked at.
        found.problems.append(f"{len(missing)} or more shards are missing, {missing[0]} first")
        return
    shards = list(product(view.grids, range(state.num_blocks)))
    looks = engine.map(partial(_look, view), shards, view.require_seen)
    for (name, _block), (problems, nbytes, count) in zip(shards, looks, strict=True):
        found.problems += problems
        found.checked += 1
        found.nbytes += nbytes
        counts[name] += count
        progress(1)
    if not found.problems:  # after damage the counts cannot agree, nor need they
        found.problems += _wrong_counts(state, counts)
    found.problems += trajectory_problems(view, engine)
    found.notes += _leftovers(view)


def _wrong_counts(state: StoreState, counts: Mapping[str, int]) -> Iterator[str]:
    for name, told in {VALID_MASK: state.num_valid, **state.nonfinite}.items():
        if counts[name] != told:
            pairs = "valid pairs" if name == VALID_MASK else "non-finite pairs"
            yield f"{name}: {counts[name]} {pairs}, metadata says {told}"


def _leftovers(view: StoreView) -> Iterator[str]:
    for name, grid in view.grids.items():
        known = {grid.shard_name(b) for b in range(view.state.num_blocks)} | {DOCUMENT}
        if others := [n for n in view.blobs.names(name) if n not in known]:
            yield f"{name}: {len(others)} files past the last commit, {others[0]} first"


def _look(view: StoreView, shard_of: tuple[str, int]) -> tuple[list[str], int, int]:
    """Check the shard of a field and block.

    Returns:
        What is wrong with it; the bytes that were checked; and pairs that the metadata count, too,
        with a true mask or with NaN or infinity.
    """
    name, block = shard_of
    grid, steps, num_envs = view.grids[name], view.state.steps_of(block), view.state.num_envs
    problems, nbytes, count = list[str](), 0, 0
    chunk_values = np.empty(grid.chunk_shape, grid.field.dtype)
    try:
        shard = view.shard(name, block)
    except CorruptStoreError as error:
        return [f"{error}{_touched(steps, range(num_envs))}"], 0, 0
    with shard:
        for chunk in range(grid.chunks):
            nbytes += shard.stored_nbytes(chunk)
            columns, inside = grid.rows(chunk)
            envs, rows = range(num_envs)[columns], steps[inside]
            try:
                shard.read(chunk, chunk_values)
            except CorruptStoreError as error:
                problems.append(f"{error}{_touched(rows, envs)}")
                continue
            values = chunk_values[: len(envs), : len(rows)]
            if name == VALID_MASK:
                count += int(np.count_nonzero(values))
            elif name in view.state.nonfinite:
                count += nonfinite_pairs(values)
    return problems, nbytes, count


def _touched(steps: range, envs: range) -> str:
    if not steps:
        return " (steps that are not committed)"
    return f" (steps {steps[0]}..{steps[-1]}, envs {envs[0]}..{envs[-1]})"


def trajectory_problems(view: StoreView, engine: Engine | None = None) -> list[str]:
    """Where ids fall or were never given out, or ends contradict them, in words.

    An end is followed by another id, and another id only comes behind an end or with a new run.
    Blocks whose ids or ends are damaged are passed over.

    Args:
        view: View of one store.
        engine: Who reads; None: this thread.

    Raises:
        ClusterError: The cluster cannot do the work.
    """
    check, blocks = partial(_check_block, view), range(view.state.num_blocks)
    found = list((engine or Engine(1)).map(check, blocks, view.require_seen))
    problems = [words for _ended, wrong in found for words in wrong]
    ended = [count for count, _wrong in found if count is not None]
    told, is_whole = view.state.num_trajectories, len(ended) == len(found)
    if view.state.schema.has_ends and is_whole and not problems and sum(ended) != told:
        problems.append(f"{TRAJECTORY_END}: {sum(ended)} ends, metadata says {told}")
    return problems


def _check_block(view: StoreView, block: int) -> tuple[int | None, list[str]]:
    """Count the ends of a block, None if damaged; and the first contradiction, in words.

    Ids and ends are compared from the last row before the block on.
    """
    state, own = view.state, view.state.steps_of(block)
    steps = range(max(0, own.start - 1), own.stop)
    starts = {run.first_step for run in state.runs}
    inner = np.array([step not in starts for step in steps[1:]], np.bool_)
    ended = 0
    for envs in view.columns(TRAJECTORY_END if state.schema.has_ends else TRAJECTORY_ID):
        try:
            ids = view.read(TRAJECTORY_ID, steps, envs)
            ends = view.read(TRAJECTORY_END, steps, envs) if state.schema.has_ends else None
        except CorruptStoreError:
            return None, []
        change = np.diff(ids, axis=0)
        if (ids[0] < 0).any() or (change < 0).any() or (ids[-1] >= state.next_trajectory_id).any():
            return None, [f"{TRAJECTORY_ID}, block {block}: ids fall or were never given out"]
        if ends is None:
            continue
        committed = ends[own.start - steps.start :]
        ended += int(np.count_nonzero(committed))
        if (committed > TRUNCATED).any():
            return ended, [f"{TRAJECTORY_END}, block {block}: expected {GOES_ON}..{TRUNCATED}"]
        before, changed = ends[:-1] != GOES_ON, change != 0
        kinds = {
            "an end, but the trajectory goes on": before & ~changed,
            "no end, but another trajectory follows": changed & ~before & inner[:, None],
        }
        for words, wrong in kinds.items():
            if wrong.any():
                at, env = np.argwhere(wrong)[0].tolist()
                place = f"block {state.block_of(steps[at])}: step {steps[at]}, env {envs[env]}"
                return ended, [f"{TRAJECTORY_END}, {place}: {words}"]
    return ended, []
