"""Options of an export, checked together."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mosaic_collect.checks import is_whole, pythons
from mosaic_collect.npyfile.layout import GRID, OURS
from mosaic_collect.reading.subset import SubsetOptions
from mosaic_collect.text import shown

#: Grid if every pair is valid and finite, else compact.
LayoutName = Literal["auto", "grid", "compact"]
LAYOUT_NAMES = get_args(LayoutName)
AUTO = LAYOUT_NAMES[0]


@dataclass(frozen=True, kw_only=True)
class Options(SubsetOptions):
    """Arguments of ``export_npy``, which documents them, and one more.

    Attributes:
        metadata: Entries for the file's ``metadata``; they replace the export's own of one name.

    Raises:
        InputError: Names all bad values, and options that exclude each other.
    """

    layout: LayoutName = "auto"
    max_pairs: int | None = None
    seed: int = 0
    allow_nonfinite: bool = False
    metadata: Mapping[str, str | int | float | bool | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("seed", operator.index(self.seed))
        if self.max_pairs is not None:
            self._set("max_pairs", operator.index(self.max_pairs))
        if self.metadata is not None:
            self._set("metadata", {key: pythons(value) for key, value in self.metadata.items()})

    def as_json(self) -> dict[str, Any]:
        """The options as a file holds them: ``Options(**as_json)`` are the same."""
        told = super().as_json()
        metadata = told.pop("metadata")
        return told if metadata is None else {**told, "metadata": dict(metadata)}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, in words."""
        if self.layout not in LAYOUT_NAMES:
            *names, last = LAYOUT_NAMES
            yield self.wrong("layout", f"{', '.join(names)} or {last}")
        yield from super().problems()
        for name, least in (("max_pairs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not is_whole(value, least) and not (name == "max_pairs" and value is None):
                yield self.wrong(name, f"a whole number from {least}")
        yield from _metadata_problems(self.metadata)
        if self.layout == GRID and self.excluding:
            asked = ", ".join(self.excluding)
            yield f"{asked}: a {self.layout} holds every pair; use layout='compact'"


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
