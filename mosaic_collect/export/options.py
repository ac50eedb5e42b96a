"""Options of an export, checked together."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mosaic_collect.checks import is_whole, pythons
from mosaic_collect.errors import InputError
from mosaic_collect.export.layouts import LAYOUTS
from mosaic_collect.npyfile.layout import OURS
from mosaic_collect.reading.provenance import ALIKE
from mosaic_collect.reading.selection import Split
from mosaic_collect.text import shown

#: Grid if every pair is valid and finite, else compact.
LayoutName = Literal["auto", "grid", "compact"]
LAYOUT_NAMES = get_args(LayoutName)
AUTO = LAYOUT_NAMES[0]
#: Options that leave out pairs.
EXCLUDING = ("max_pairs", "exclude_interrupted", "exclude_failed", "skip_damaged", "split")
_FLAGS = ("allow_incomplete", "allow_nonfinite", *EXCLUDING[1:4])
_SPLIT = ("split", "validation_fraction", "split_seed")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of ``export_npy``, which documents them, and one more.

    Attributes:
        metadata: Entries for the file's ``metadata``; they replace the export's own of one name.

    Raises:
        InputError: Names all bad values, and options that exclude each other.
    """

    layout: LayoutName = "auto"
    fields: Sequence[str] | None = None
    max_pairs: int | None = None
    seed: int = 0
    allow_incomplete: bool = False
    allow_nonfinite: bool = False
    exclude_interrupted: bool = False
    exclude_failed: bool = False
    skip_damaged: bool = False
    split: str | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    allow_different: Sequence[str] = ()
    metadata: Mapping[str, str | int | float | bool | None] | None = None

    def __post_init__(self) -> None:
        if self.fields is not None:
            self._set("fields", _names(self.fields))
        self._set("allow_different", _names(self.allow_different))
        problems = list(_problems(self))
        if problems:
            raise InputError("; ".join(problems))
        Split.of(*(getattr(self, name) for name in _SPLIT))
        for name in ("validation_fraction", "split_seed"):
            self._set(name, pythons(getattr(self, name)))
        self._set("seed", operator.index(self.seed))
        if self.max_pairs is not None:
            self._set("max_pairs", operator.index(self.max_pairs))
        if self.metadata is not None:
            self._set("metadata", {key: pythons(value) for key, value in self.metadata.items()})

    @property
    def side(self) -> Split | None:
        """Side of a split to export."""
        return Split.of(self.split, self.validation_fraction, self.split_seed)

    @property
    def excluding(self) -> list[str]:
        """Names of the options in use that leave out pairs."""
        return [name for name in EXCLUDING if getattr(self, name) not in (None, False)]

    def as_json(self) -> dict[str, Any]:
        """The options as a file holds them: ``Options(**as_json)`` are the same."""
        told = dict(vars(self))
        metadata = told.pop("metadata")
        if self.split is None:
            told = {name: value for name, value in told.items() if name not in _SPLIT}
        told["fields"] = None if self.fields is None else list(self.fields)
        told["allow_different"] = list(self.allow_different)
        return told if metadata is None else {**told, "metadata": dict(metadata)}

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _problems(options: Options) -> Iterator[str]:
    if options.layout not in LAYOUT_NAMES:
        *names, last = LAYOUT_NAMES
        yield f"layout: expected {', '.join(names)} or {last}, got {shown(options.layout)}"
    if not all(isinstance(name, str) for name in options.fields or ()):
        yield f"fields: expected names, got {shown(options.fields)}"
    for name, least in (("max_pairs", 1), ("seed", 0)):
        value = getattr(options, name)
        if not is_whole(value, least) and not (name == "max_pairs" and value is None):
            yield f"{name}: expected a whole number from {least}, got {shown(value)}"
    for name in _FLAGS:
        if not isinstance(getattr(options, name), bool):
            yield f"{name}: expected True or False, got {shown(getattr(options, name))}"
    if not all(isinstance(n, str) and n in ALIKE for n in options.allow_different):
        expected = ", ".join(ALIKE)
        yield f"allow_different: expected some of {expected}, got {shown(options.allow_different)}"
    yield from _metadata_problems(options.metadata)
    layout = LAYOUTS.get(options.layout) if isinstance(options.layout, str) else None
    if layout is not None and layout.holds_every_pair and options.excluding:
        asked = ", ".join(options.excluding)
        yield f"{asked}: a {options.layout} holds every pair; use layout='compact'"


def _names(fields: Any) -> tuple[Any, ...]:
    """Take a single name for a list of one; ``_problems`` reports what is no name."""
    single = isinstance(fields, str) or not isinstance(fields, Iterable)
    return (fields,) if single else tuple(fields)


def _metadata_problems(metadata: Any) -> Iterator[str]:
    """Require flat entries, so that a file's options cannot stand for more than its bytes."""
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        yield f"metadata: expected entries with names, got {shown(metadata)}"
        return
    if OURS in metadata:
        yield f"metadata: {OURS} is what the export says of itself"
    plain = (str, int, float, type(None))
    wrong = [key for key, value in metadata.items() if not isinstance(pythons(value), plain)]
    if wrong:
        yield f"metadata: expected texts and numbers, got others for {shown(wrong)}"
