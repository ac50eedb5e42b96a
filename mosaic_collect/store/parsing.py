"""Reading a root document: nothing in it is believed before it was checked.

A store may come from anywhere, so every size is bounded before anything is allocated for it, and
all problems are reported together.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mosaic_collect.checks import lfs_pointer, pythons
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    NewerFormatError,
    StoreNotFoundError,
)
from mosaic_collect.store.codec import CODECS, Compressor
from mosaic_collect.store.grid import may_be_cut
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    COLLECTING,
    COMPLETE,
    FORMAT_VERSION,
    Foreign,
    Run,
    StoreState,
    checksum,
)
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.text import shown


def strict_json(data: bytes, where: str) -> Any:
    """The value of a ``zarr.json``.

    Raises:
        CorruptStoreError: The document is no JSON; ``where`` names the store.
    """
    if words := lfs_pointer(data):
        raise CorruptStoreError(f"{where}: zarr.json is {words}")
    try:
        return json.loads(data, parse_constant=_no_constant, parse_float=_finite)
    except ValueError as error:
        raise CorruptStoreError(f"{where}: zarr.json is no valid JSON: {error}") from error


def object_in(document: Any, name: str) -> dict[str, Any]:
    """The object that a document holds under a name; an empty one where there is none."""
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


MAX_DOCUMENT_NBYTES = 64 << 20
MAX_VALUES = 1 << 20  # of a document; each may take some 100 bytes in memory
MAX_CHUNK_NBYTES = 1 << 30  # Blosc's own limit is just under 2 GiB
MAX_ENVS = 1 << 24
_MAX_STEPS = 1 << 40
_MAX_ID = (1 << 63) - 1


def parse_root(data: bytes, where: str) -> StoreState:
    """The state that a root ``zarr.json`` says.

    Args:
        data: The document.
        where: The store's path, for errors.

    Raises:
        StoreNotFoundError: Valid JSON, but no store of this package.
        NewerFormatError: Its format version is above ``FORMAT_VERSION``.
        CorruptStoreError: The document is damaged or contradicts itself; every problem is named.
    """
    try:
        return _parse(data, where)
    except RecursionError as error:
        raise CorruptStoreError(f"{where}: zarr.json is nested too deeply") from error


def refuse_large(data: bytes, where: str) -> None:
    """Refuse a document that is larger than any of ours, in bytes or in memory.

    Raises:
        CorruptStoreError: The document is too large.
    """
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if len(data) > MAX_DOCUMENT_NBYTES or values > MAX_VALUES:
        raise CorruptStoreError(
            f"{where}: zarr.json is larger than {MAX_DOCUMENT_NBYTES} bytes or {MAX_VALUES} values"
        )


def foreign_in(data: bytes, where: str, own: Container[str]) -> Foreign:
    """What a group's document holds beside ours: arrays that are not among ``own``.

    Raises:
        CorruptStoreError: The document is no JSON object.
    """
    return _foreign(_object(data, where), own)


def _foreign(root: dict[str, Any], own: Container[str]) -> Foreign:
    attributes = object_in(root, "attributes")
    arrays = object_in(object_in(root, "consolidated_metadata"), "metadata")
    return Foreign(
        attributes={k: v for k, v in attributes.items() if k != ATTRIBUTE},
        arrays={k: v for k, v in arrays.items() if k not in own},
    )


def _parse(data: bytes, where: str) -> StoreState:
    root = _object(data, where)
    document = object_in(root, "attributes").get(ATTRIBUTE)
    if not isinstance(document, dict):
        raise StoreNotFoundError(
            f"{where} is no mosaic_collect store: zarr.json lacks its attribute"
        )
    version = document.get("format_version")
    if type(version) is not int or version < FORMAT_VERSION:
        raise CorruptStoreError(
            f"{where}: format_version is {version!r}, expected {FORMAT_VERSION}"
        )
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{where} has format version {version}, this mosaic_collect reads up to "
            f"{FORMAT_VERSION}: upgrade it"
        )
    state = _Parser(document, where).state()
    if document.get("checksum") != checksum(document):
        raise CorruptStoreError(
            f"{where}: zarr.json was damaged or edited: the checksum of its attribute is wrong"
        )
    return replace(state, foreign=_foreign(root, state.schema.stored_names))


class _Parser:
    """Takes a state's document apart, gathering problems on the way."""

    def __init__(self, document: dict[str, Any], where: str) -> None:
        self._document, self._where = document, where
        self._problems: list[str] = []

    def state(self) -> StoreState:
        schema = self._schema()
        self._raise()
        assert schema is not None
        float_fields = [f.name for f in schema.fields if f.is_float]
        defaults = [f.name for f in schema.fields if f.default is not None]
        num_envs = self._count("num_envs", 1, MAX_ENVS)
        steps = self._count("committed_steps", 0, _MAX_STEPS)
        pairs = num_envs * steps
        next_id = self._count("next_trajectory_id", 0, _MAX_ID)
        state = StoreState(
            schema=schema,
            num_envs=num_envs,
            block_steps=self._count("block_steps", 1, _MAX_STEPS),
            chunk_envs=self._counts("chunk_envs", list(schema.stored_names), 1, num_envs),
            compressor=self._compressor(),
            committed_steps=steps,
            status=self._status(),
            num_valid=self._count("num_valid", 0, pairs),
            num_trajectories=self._count("num_trajectories", 0, next_id),
            next_trajectory_id=next_id,
            has_mask=self._typed("has_mask", bool, False),
            given=self._given(defaults),
            nonfinite=self._counts("nonfinite", float_fields, 0, pairs),
            runs=self._runs(num_envs, steps),
            metadata=self._typed("metadata", dict, {}),
            chunk_steps=self._chunk_steps(schema),
            identity=self._hex("identity", 16),
            holder=self._hex("holder", 8),
        )
        self._check_chunks(state)
        self._raise()
        return state

    def _raise(self) -> None:
        if self._problems:
            raise CorruptStoreError(f"{self._where}: bad metadata: " + "; ".join(self._problems))

    def _typed(self, name: str, kind: type, instead: Any) -> Any:
        value = self._document.get(name)
        if type(value) is not kind:
            self._problems.append(f"{name}: expected {kind.__name__}, got {value!r:.80}")
            return instead
        return value

    def _count(self, name: str, least: int, most: int) -> int:
        return self._bounded(name, self._document.get(name), least, most)

    def _bounded(self, name: str, value: Any, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self._problems.append(f"{name}: expected {least}..{most}, got {value!r:.80}")
            return least
        return value

    def _counts(self, name: str, keys: list[str], least: int, most: int) -> dict[str, int]:
        given = self._typed(name, dict, {})
        if sorted(given) != sorted(keys):
            self._problems.append(f"{name}: expected the keys {keys}, got {sorted(given)!r:.200}")
            return dict.fromkeys(keys, least)
        return {k: self._bounded(f"{name}.{k}", given[k], least, most) for k in keys}

    def _chunk_steps(self, schema: Schema) -> dict[str, int]:
        given = self._document.get("chunk_steps", {})
        if may_be_cut(given, schema.fields, self._document.get("block_steps")):
            return dict(given)
        self._problems.append(f"chunk_steps: expected divisors of block_steps, got {given!r:.80}")
        return {}

    def _given(self, defaults: list[str]) -> dict[str, bool]:
        given = self._typed("given", dict, {})
        if given and (
            sorted(given) != sorted(defaults) or not all(type(v) is bool for v in given.values())
        ):
            self._problems.append(
                f"given: expected true or false for {defaults}, got {given!r:.200}"
            )
            return {}
        return dict(given)

    def _status(self) -> str:
        status = self._document.get("status")
        if status not in (COLLECTING, COMPLETE):
            self._problems.append(
                f"status: expected {COLLECTING} or {COMPLETE}, got {status!r:.80}"
            )
            return COLLECTING
        return str(status)

    def _compressor(self) -> Compressor:
        given = self._typed("compressor", dict, {})
        name, level = given.get("name"), given.get("level")
        codec = CODECS.get(name) if isinstance(name, str) else None
        if codec is None or type(level) is not int or level not in codec.levels or len(given) != 2:
            self._problems.append(f"compressor: unknown {given!r:.80}")
            return Compressor("none", 0)
        return Compressor(str(name), int(level))

    def _schema(self) -> Schema | None:
        given = self._typed("fields", list, [])
        try:
            return Schema(tuple(Field(**f) for f in given))
        except (InputError, TypeError) as error:
            self._problems.append(f"fields: {error}")
            return None

    def _runs(self, num_envs: int, steps: int) -> tuple[Run, ...]:
        runs: list[Run] = []
        for entry in self._typed("runs", list, []):
            least = runs[-1].first_step if runs else 0
            problems = _run_problems(entry, num_envs, least, steps)
            self._problems += problems
            if not problems:
                runs.append(Run(**entry))
        if runs and not runs[-1].open_envs:
            self._problems.append("runs.open_envs: expected a bitmap of the last run, got none")
        return tuple(runs)

    def _hex(self, name: str, nbytes: int) -> str:
        given = self._document.get(name)
        if _is_hex(given, nbytes):
            return str(given)
        self._problems.append(f"{name}: expected {nbytes} bytes as hex, got {given!r:.80}")
        return ""

    def _check_chunks(self, state: StoreState) -> None:
        for name, grid in state.grids().items():
            if grid.chunk_nbytes > MAX_CHUNK_NBYTES:
                self._problems.append(f"{name}: a chunk of {grid.chunk_nbytes} bytes is too large")
            if grid.chunks > MAX_ENVS:
                self._problems.append(f"{name}: {grid.chunks} chunks a shard are too many")


def _object(data: bytes, where: str) -> dict[str, Any]:
    refuse_large(data, where)
    root = strict_json(data, where)
    return root if isinstance(root, dict) else {}


def _run_problems(entry: Any, num_envs: int, least: int, most: int) -> list[str]:
    names = {"first_step", "open_envs", "started", "versions", "key"}
    # Stores made before this field have a bitmap in every entry.
    if not isinstance(entry, dict) or set(entry) - {"first_open_id"} != names:
        return [f"runs: expected entries of {sorted(names)}, got {entry!r:.80}"]
    found = []
    first = entry["first_step"]
    if type(first) is not int or not least <= first <= most:
        found.append(f"runs.first_step: expected {least}..{most}, got {first!r:.80}")
    if entry["open_envs"] != "" and _bitmap_nbytes(entry["open_envs"]) != -(-num_envs // 8):
        found.append(f"runs.open_envs: expected a bitmap of {num_envs} environments")
    if not isinstance(entry["started"], str) or not isinstance(entry["versions"], dict):
        found.append("runs: started must be a string, versions a dict")
    if not _is_hex(entry["key"], 8):
        found.append(f"runs.key: expected 8 bytes as hex, got {entry['key']!r:.80}")
    first_open_id = entry.get("first_open_id", 0)
    if type(first_open_id) is not int or not 0 <= first_open_id < 1 << 63:
        found.append(f"runs.first_open_id: expected an id, got {first_open_id!r:.80}")
    return found


def _is_hex(text: Any, nbytes: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(f"[0-9a-f]{{{2 * nbytes}}}", text))


def _bitmap_nbytes(text: Any) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except (TypeError, ValueError):
        return -1


# Well below what a root document may be: nothing may be written that cannot be read.
_MAX_NBYTES = MAX_DOCUMENT_NBYTES // 4
_MAX_VALUES = MAX_VALUES // 4
_MAX_DEPTH = 64  # JSON parsers have bounds of their own


def json_copy(entries: Mapping[str, Any], nonfinite_as_text: bool = False) -> dict[str, Any]:
    """What JSON will give back for these entries: tuples become lists, for one.

    NumPy's numbers become Python's, and paths their texts.

    Args:
        entries: The user's.
        nonfinite_as_text: NaN and infinity, which JSON lacks, become their names.

    Raises:
        InputError: JSON cannot hold a value, which is named by its place, or they are too many.
    """
    if not isinstance(entries, Mapping):
        raise InputError(f"metadata: expected a mapping, got {type(entries).__name__}")
    try:
        text = _dumped(dict(entries), nonfinite_as_text)
        copy = dict(json.loads(text))
        depth = _depth(copy)
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata: expected values that JSON can hold: {error}") from error
    _check(*_size(text), depth)
    return copy


def json_sizes(copy: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Bytes and values of each entry of such a copy, so that a change asks for those alone."""
    return {name: _size(json.dumps({name: value})) for name, value in copy.items()}


def check_sizes(sizes: Iterable[tuple[int, int]]) -> None:
    """Refuse entries that are fine one by one, and too many together.

    Raises:
        InputError: The entries are too many or too large together.
    """
    nbytes, values = (sum(each) for each in zip((0, 0), *sizes, strict=True))
    _check(nbytes, values, 0)


def _size(text: str) -> tuple[int, int]:
    return len(text), text.count(",") + text.count("[") + text.count("{")


def _check(nbytes: int, values: int, depth: int) -> None:
    if nbytes > _MAX_NBYTES or values > _MAX_VALUES or depth > _MAX_DEPTH:
        raise InputError(
            f"metadata: expected at most {_MAX_NBYTES} bytes of JSON, "
            f"{_MAX_VALUES} values and {_MAX_DEPTH} levels, got {nbytes}, {values}, {depth}"
        )


def _dumped(entries: dict[str, Any], nonfinite_as_text: bool) -> str:
    """Their JSON; the values are only looked at one by one where it is not to be had at once."""
    try:
        return json.dumps(entries, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(entries, "", nonfinite_as_text), allow_nan=False)


def _plain(value: Any, place: str, nonfinite_as_text: bool) -> Any:
    """The value in types of JSON; ``place`` is such as ``policy.layers[2]``."""
    if isinstance(value, Mapping):
        before = f"{place}." if place else ""
        each = value.items()
        return {_key(k, place): _plain(v, f"{before}{k}", nonfinite_as_text) for k, v in each}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{place}[{at}]", nonfinite_as_text) for at, v in enumerate(value)]
    value = pythons(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        if nonfinite_as_text:
            return str(value)
    elif value is None or isinstance(value, (str, int, float)):
        return value
    raise InputError(
        f"metadata: expected values that JSON can hold, got {shown(repr(value))} at {shown(place)}"
    )


def _key(key: Any, place: str) -> Any:
    """Numbers as keys become texts in JSON."""
    key = pythons(key)
    if key is None or isinstance(key, (str, int, float)):
        return key
    where = shown(place) or "the top"
    raise InputError(f"metadata: expected names as keys, got {shown(repr(key))} at {where}")


def _depth(value: dict[str, Any] | list[Any]) -> int:
    inner = value.values() if isinstance(value, dict) else value
    deeper = [_depth(v) for v in inner if isinstance(v, (dict, list))]
    return 1 + max(deeper, default=1 if inner else 0)
