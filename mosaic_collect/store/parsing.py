"""Reading a root document, which may come from anywhere: sizes are bounded before they are used."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from mosaic_collect.checks import lfs_pointer, pythons
from mosaic_collect.errors import (
    CorruptStoreError,
    InputError,
    NewerFormatError,
    StoreNotFoundError,
)
from mosaic_collect.store.codec import CODECS, Compressor
from mosaic_collect.store.metadata import (
    ATTRIBUTE,
    COLLECTING,
    COMPLETE,
    FORMAT_VERSION,
    Run,
    StoreState,
    checksum,
)
from mosaic_collect.store.schema import Field, Schema
from mosaic_collect.text import shown


def strict_json(data: bytes, where: str) -> Any:
    """The value of a ``zarr.json``; CorruptStoreError, which names ``where``, if it is no JSON."""
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
_STATUS = (COLLECTING, COMPLETE)


def parse_root(data: bytes, where: str) -> StoreState:
    """The state in a root ``zarr.json``; ``where`` names the store in errors.

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
    """Refuse a document that is larger than any of ours, in bytes or in memory."""
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if len(data) > MAX_DOCUMENT_NBYTES or values > MAX_VALUES:
        raise CorruptStoreError(
            f"{where}: zarr.json is larger than {MAX_DOCUMENT_NBYTES} bytes or {MAX_VALUES} values"
        )


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """The object in a ``zarr.json``; an empty one if it is another value."""
    refuse_large(data, where)
    root = strict_json(data, where)
    return root if isinstance(root, dict) else {}


def with_foreign(state: StoreState, root: dict[str, Any]) -> StoreState:
    """The state with what others added to the group's document."""
    arrays = object_in(object_in(root, "consolidated_metadata"), "metadata")
    attributes = object_in(root, "attributes")
    own = state.schema.stored_names
    return replace(
        state,
        foreign_attributes={k: v for k, v in attributes.items() if k != ATTRIBUTE},
        foreign_arrays={k: v for k, v in arrays.items() if k not in own},
    )


def _parse(data: bytes, where: str) -> StoreState:
    root = json_object(data, where)
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
    checks = _Checks(document)
    state = checks.state()
    if state is None or checks.problems:
        raise CorruptStoreError(f"{where}: bad metadata: " + "; ".join(checks.problems))
    if document.get("checksum") != checksum(document):
        raise CorruptStoreError(
            f"{where}: zarr.json was damaged or edited: the checksum of its attribute is wrong"
        )
    return with_foreign(state, root)


class _Checks:
    """Checks of the entries of a state's document; ``problems`` lists what is wrong with them."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.problems: list[str] = []

    def state(self) -> StoreState | None:
        """The state that the document holds; None if its entries cannot make one."""
        document = self._document
        try:
            schema = Schema(tuple(Field(**f) for f in self._typed("fields", list)))
        except (InputError, TypeError) as error:
            self.problems.append(f"fields: {error}")
            return None
        num_envs = self._count("num_envs", 1, MAX_ENVS)
        steps = self._count("committed_steps", 0, _MAX_STEPS)
        pairs, next_id = num_envs * steps, self._count("next_trajectory_id", 0, _MAX_ID)
        status = document.get("status")
        self._check("status", status, status in _STATUS, " or ".join(_STATUS))
        axes = [f.name for f in schema.fields if f.has_axes]
        self._chunk_steps(axes, self._count("block_steps", 1, _MAX_STEPS))
        self._counts("chunk_envs", schema.stored_names, 1, num_envs)
        self._compressor()
        self._count("num_valid", 0, pairs)
        self._count("num_trajectories", 0, next_id)
        self._typed("has_mask", bool)
        self._given([f.name for f in schema.fields if f.default is not None])
        self._counts("nonfinite", [f.name for f in schema.fields if f.is_float], 0, pairs)
        self._runs(num_envs, steps)
        self._typed("metadata", dict)
        self._hex("identity", document.get("identity"), 16)
        self._hex("holder", document.get("holder"), 8)
        if self.problems:
            return None
        entries = {f.name: document[f.name] for f in fields(StoreState) if f.name in document}
        entries["compressor"] = Compressor(**document["compressor"])
        entries["runs"] = tuple(Run(**run) for run in document["runs"])
        state = StoreState(**{**entries, "schema": schema})
        for name, grid in state.grids().items():
            if grid.chunk_nbytes > MAX_CHUNK_NBYTES:
                self.problems.append(f"{name}: a chunk of {grid.chunk_nbytes} bytes is too large")
            if grid.chunks > MAX_ENVS:
                self.problems.append(f"{name}: {grid.chunks} chunks a shard are too many")
        return state

    def _check(self, name: str, value: Any, is_good: bool, expected: str) -> bool:
        if not is_good:
            self.problems.append(f"{name}: expected {expected}, got {value!r:.80}")
        return is_good

    def _whole(self, name: str, value: Any, least: int, most: int) -> int:
        is_good = type(value) is int and least <= value <= most
        return value if self._check(name, value, is_good, f"{least}..{most}") else least

    def _count(self, name: str, least: int, most: int) -> int:
        return self._whole(name, self._document.get(name), least, most)

    def _typed(self, name: str, kind: type) -> Any:
        value = self._document.get(name)
        return value if self._check(name, value, type(value) is kind, kind.__name__) else kind()

    def _counts(self, name: str, keys: Iterable[str], least: int, most: int) -> None:
        value, names = self._typed(name, dict), sorted(keys)
        if self._check(name, sorted(value), sorted(value) == names, f"the keys {names}"):
            for key, count in value.items():
                self._whole(f"{name}.{key}", count, least, most)

    def _chunk_steps(self, names: list[str], block_steps: int) -> None:
        value = self._document.get("chunk_steps", {})
        is_good = isinstance(value, dict) and all(
            name in names and type(n) is int and 0 < n < block_steps and block_steps % n == 0
            for name, n in value.items()
        )
        self._check("chunk_steps", value, is_good, "divisors of block_steps")

    def _given(self, names: list[str]) -> None:
        value = self._typed("given", dict)
        is_good = sorted(value) == sorted(names) and all(type(v) is bool for v in value.values())
        self._check("given", value, not value or is_good, f"true or false for {names}")

    def _hex(self, name: str, value: Any, nbytes: int) -> None:
        is_hex = isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * nbytes}}}", value)
        self._check(name, value, bool(is_hex), f"{nbytes} bytes as hex")

    def _compressor(self) -> None:
        value = self._typed("compressor", dict)
        name, level = value.get("name"), value.get("level")
        is_good = len(value) == 2 and isinstance(name, str) and name in CODECS
        is_good = is_good and type(level) is int and level in CODECS[name].levels
        self._check("compressor", value, is_good, "a name and its level")

    def _runs(self, num_envs: int, steps: int) -> None:
        names, least = {"first_step", "open_envs", "started", "versions", "key"}, 0
        bitmap: Any = "none yet"
        for entry in self._typed("runs", list):
            # Stores made before ``first_open_id`` have a bitmap in every entry.
            is_known = isinstance(entry, dict) and set(entry) - {"first_open_id"} == names
            if not self._check("runs", entry, is_known, f"entries of {sorted(names)}"):
                continue
            bitmap = entry["open_envs"]
            least = self._whole("runs.first_step", entry["first_step"], least, steps)
            self._whole("runs.first_open_id", entry.get("first_open_id", 0), 0, _MAX_ID)
            self._hex("runs.key", entry["key"], 8)
            is_bitmap = bitmap == "" or _base64_nbytes(bitmap) == -(-num_envs // 8)
            self._check("runs.open_envs", bitmap, is_bitmap, f"a bitmap of {num_envs} environments")
            for name, kind in (("started", str), ("versions", dict)):
                is_kind = isinstance(entry[name], kind)
                self._check(f"runs.{name}", entry[name], is_kind, kind.__name__)
        if not bitmap:
            self.problems.append("runs.open_envs: expected a bitmap of the last run, got none")


def _base64_nbytes(text: Any) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except (TypeError, ValueError):
        return -1


# Well below what a root document may be: nothing may be written that cannot be read.
_MAX_NBYTES = MAX_DOCUMENT_NBYTES // 4
_MAX_VALUES = MAX_VALUES // 4
_MAX_DEPTH = 64  # JSON parsers have bounds of their own


def json_copy(entries: Mapping[str, Any], nonfinite_as_text: bool = False) -> dict[str, Any]:
    """Copy metadata as JSON returns it: tuples become lists, paths texts, NumPy's numbers Python's.

    With ``nonfinite_as_text`` NaN and infinity, which JSON lacks, become their names.

    Raises:
        InputError: JSON cannot hold a value, which is named by its place, or they are too many.
    """
    if not isinstance(entries, Mapping):
        raise InputError(f"metadata: expected a mapping, got {type(entries).__name__}")
    try:
        try:
            text = json.dumps(dict(entries), allow_nan=False)
        except (TypeError, ValueError):  # only then are the values looked at one by one
            text = json.dumps(_plain(entries, "", nonfinite_as_text), allow_nan=False)
        copy = dict(json.loads(text))
        depth = _depth(copy)
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata: expected values that JSON can hold: {error}") from error
    check_sizes([_size(text)], depth)
    return copy


def json_sizes(copy: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Bytes and values of each entry of such a copy, so that a change asks for those alone."""
    return {name: _size(json.dumps({name: value})) for name, value in copy.items()}


def _size(text: str) -> tuple[int, int]:
    return len(text), text.count(",") + text.count("[") + text.count("{")


def check_sizes(sizes: Iterable[tuple[int, int]], depth: int = 0) -> None:
    """Refuse entries that are fine one by one, and too many or too large together."""
    nbytes, values = (sum(each) for each in zip((0, 0), *sizes, strict=True))
    if nbytes > _MAX_NBYTES or values > _MAX_VALUES or depth > _MAX_DEPTH:
        raise InputError(
            f"metadata: expected at most {_MAX_NBYTES} bytes of JSON, "
            f"{_MAX_VALUES} values and {_MAX_DEPTH} levels, got {nbytes}, {values}, {depth}"
        )


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
