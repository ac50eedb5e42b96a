"""The documents of a store: its state, and the ``zarr.json`` texts that say it.

The root document is the commit. It holds the state under the attribute ``mosaic_collect`` and the
consolidated metadata of every array, so one atomic replace moves all fields to the same length.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from mosaic_collect.store.codec import Compressor
from mosaic_collect.store.grid import FieldGrid
from mosaic_collect.store.schema import TRAJECTORY_ID, Schema

FORMAT_VERSION = 2
ATTRIBUTE = "mosaic_collect"
#: The array whose own document holds the state, too: tools that write the group's may drop it.
SPARE = TRAJECTORY_ID
COLLECTING = "collecting"
COMPLETE = "complete"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One writer's stay at the store, from opening to closing or dying.

    Attributes:
        first_step: Committed steps when it opened.
        open_envs: At the run's last commit, the environments whose trajectory had not ended, as
            base64 of a bitmap (bit e % 8 of byte e // 8, least first). Those trajectories of an
            earlier run are interrupted: a resume gives every environment a new id. Empty once a
            later run has a step, whose ids tell the same; see ``first_open_id``.
        started: UTC, ISO 8601.
        versions: Versions of the packages that wrote.
        key: Random identity of this run, 8 bytes as hex; shards are labelled with it.
        first_open_id: Environments whose first trajectory of this run has this id or a greater one
            were within a trajectory when the run before stopped. So a store keeps one bitmap,
            however often it is resumed. None in older stores, which keep all bitmaps.
    """

    first_step: int
    open_envs: str
    started: str
    versions: dict[str, str]
    key: str = ""
    first_open_id: int | None = None

    def told(self) -> dict[str, Any]:
        """What is told of it elsewhere."""
        versions = dict(self.versions)
        return {"first_step": self.first_step, "started": self.started, "versions": versions}


def open_envs(bitmap: str, num_envs: int) -> NDArray[np.bool_]:
    """Unpack ``Run.open_envs``. Shape: (num_envs,)."""
    bits = np.frombuffer(base64.b64decode(bitmap), np.uint8)
    return np.unpackbits(bits, count=num_envs, bitorder="little").astype(bool)


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """All that the root document says. Frozen: a commit publishes one such value.

    Attributes:
        schema: The caller's fields.
        num_envs: Environments, N.
        block_steps: Steps of a block, S.
        chunk_envs: Environments of a chunk, a field; all stored fields.
        chunk_steps: Steps of a chunk, of those fields whose chunks hold less than a block's.
        compressor: Compression of the chunks.
        committed_steps: Steps that exist, T.
        status: ``collecting`` or ``complete``.
        num_valid: Pairs with a true mask.
        num_trajectories: Trajectories that were ended.
        next_trajectory_id: The least id never used.
        has_mask: A mask was given at some step.
        given: For each field with a default, whether the caller gives it; empty before a step.
        nonfinite: Per float field, pairs that hold NaN or infinity, valid or not.
        runs: One entry a writer.
        metadata: The user's own, JSON.
        identity: Random identity of the store, 16 bytes as hex; shards are labelled with it.
        foreign_attributes: Third-party attributes of the group, which are kept; not compared.
        foreign_arrays: Third-party consolidated metadata by path, which are kept; not compared.
        holder: ``Run.key`` of the writer that opened it last. It says who may write, and nothing of
            the data, so it is not compared.
    """

    schema: Schema
    num_envs: int
    block_steps: int
    chunk_envs: dict[str, int]
    compressor: Compressor
    committed_steps: int = 0
    status: str = COLLECTING
    num_valid: int = 0
    num_trajectories: int = 0
    next_trajectory_id: int = 0
    has_mask: bool = False
    given: dict[str, bool] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    chunk_steps: dict[str, int] = field(default_factory=dict)
    identity: str = ""
    foreign_attributes: dict[str, Any] = field(default_factory=dict, compare=False)
    foreign_arrays: dict[str, Any] = field(default_factory=dict, compare=False)
    holder: str = field(default="", compare=False)

    @property
    def num_pairs(self) -> int:
        """Committed pairs, T times N, valid or not."""
        return self.committed_steps * self.num_envs

    @property
    def num_blocks(self) -> int:
        """Blocks that hold committed steps, the last of them perhaps partly."""
        return -(-self.committed_steps // self.block_steps)

    def spans(self) -> tuple[tuple[Run, range], ...]:
        """Each run and the committed steps of it; steps before the first run are no run's."""
        bounds = [*(run.first_step for run in self.runs), self.committed_steps]
        steps = (range(first, stop) for first, stop in pairwise(bounds))
        return tuple(zip(self.runs, steps, strict=True))

    @property
    def stopped_open(self) -> NDArray[np.bool_]:
        """Environments within a trajectory at the last committed step. Shape: (num_envs,)."""
        if not self.runs:
            return np.zeros(self.num_envs, np.bool_)
        return open_envs(self.runs[-1].open_envs, self.num_envs)

    def steps_of(self, block: int) -> range:
        """Committed steps of a block."""
        first = block * self.block_steps
        return range(first, min(first + self.block_steps, self.committed_steps))

    def block_of(self, step: int) -> int:
        """The block that a step is in."""
        return step // self.block_steps

    def grid(self, name: str) -> FieldGrid:
        """How the named field is cut."""
        chunk = self.chunk_envs[name], self.chunk_steps.get(name, self.block_steps)
        return FieldGrid(self.schema[name], self.num_envs, self.block_steps, *chunk)

    def grids(self) -> dict[str, FieldGrid]:
        """All stored fields' cuttings, in order."""
        return {f.name: self.grid(f.name) for f in self.schema.stored}


def root_document(state: StoreState) -> bytes:
    """The group's ``zarr.json``: consolidated arrays and the state."""
    arrays = {f.name: array_metadata(state, f.name) for f in state.schema.stored}
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**state.foreign_attributes, ATTRIBUTE: _state_document(state)},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": {**arrays, **state.foreign_arrays},
        },
    }
    return json.dumps(document, allow_nan=False).encode()


def array_document(
    state: StoreState, name: str, attributes: Mapping[str, Any] | None = None
) -> bytes:
    """One array's ``zarr.json`` with third-party attributes; that of ``SPARE`` has the state."""
    own = {ATTRIBUTE: _state_document(state)} if name == SPARE else {}
    document = {**array_metadata(state, name), "attributes": {**(attributes or {}), **own}}
    return json.dumps(document, allow_nan=False).encode()


def array_metadata(state: StoreState, name: str) -> dict[str, Any]:
    """One array's Zarr v3 metadata; shape ``(T, N[, dim])``, a shard one block and all N wide."""
    grid = state.grid(name)
    row = grid.field.row_shape
    # Of one field each: axes of one name must be of one length (xarray).
    axes = [
        f"{name}_dim_{axis}" if grid.field.has_axes else f"{name}_dim" for axis in range(len(row))
    ]
    shard_shape = [grid.block_steps, grid.padded_envs, *row]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [state.committed_steps, state.num_envs, *row],
        "data_type": grid.field.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": grid.field.fill_value,
        "codecs": [_sharding_codec(grid, state.compressor)],
        "attributes": {},
        "dimension_names": ["step", "env", *axes],
        "storage_transformers": [],
    }


def _sharding_codec(grid: FieldGrid, compressor: Compressor) -> dict[str, Any]:
    row = grid.field.row_shape
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    one_byte = grid.field.dtype in ("bool", "int8", "uint8")
    order = [1, 0, *range(2, 2 + len(row))]
    chain = [
        {"name": "transpose", "configuration": {"order": order}},
        {"name": "bytes"} if one_byte else little,
        *compressor.zarr_codecs(),
        {"name": "crc32c"},
    ]
    configuration = {
        "chunk_shape": [grid.chunk_steps, grid.chunk_envs, *row],
        "codecs": chain,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def checksum(document: dict[str, Any]) -> int:
    """CRC-32C of a state's document without its entry ``checksum``.

    Over a canonical form of JSON: keys sorted, no spaces, ASCII only.
    """
    entries = {k: v for k, v in document.items() if k != "checksum"}
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return int(crc32c(text.encode()))


def _state_document(state: StoreState) -> dict[str, Any]:
    document = {f.name: getattr(state, f.name) for f in fields(state)}
    del document["foreign_attributes"], document["foreign_arrays"]
    document["format_version"] = FORMAT_VERSION
    document["compressor"] = vars(state.compressor)
    document["runs"] = [{k: v for k, v in vars(r).items() if v is not None} for r in state.runs]
    document["fields"] = [vars(f) for f in document.pop("schema").fields]
    if not state.chunk_steps:
        del document["chunk_steps"]
    document["checksum"] = checksum(document)
    return document
