"""The two ways in which the pairs of a ``.npy`` export lie, each an object.

    grid       [T, N, D]    every pair, at its step and environment, with a valid_mask [T, N]
    compact    [M, 1, D]    valid pairs only, one behind the other

MOSAIC takes each of its own arrays for ``[T, N, D]`` of float32, so rows of several axes become one
axis, in C order, and the file's metadata keep the axes. It reads no other arrays: they keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from mosaic_collect.errors import InputError, NonFiniteError, StoreMismatchError
from mosaic_collect.npyfile.layout import COMPACT, GRID, ArraySpec
from mosaic_collect.reading.table import Table
from mosaic_collect.store.schema import MOSAIC_FIELDS, VALID_MASK, Field


class Compact:
    """Valid, finite pairs by step, then environment."""

    name: ClassVar[str] = COMPACT
    #: Whether no pair can be left out, and a mask marks the invalid ones.
    holds_every_pair: ClassVar[bool] = False

    def check_stores(self, table: Table) -> None:
        """Refuse stores that the layout cannot hold together."""

    def check_fields(
        self, names: Sequence[str], nonfinite: Mapping[str, int], allow_nonfinite: bool
    ) -> None:
        """Refuse fields that the layout cannot hold.

        Args:
            names: Fields that the caller named.
            nonfinite: Per field that holds NaN or infinity, the number of such pairs.
            allow_nonfinite: Whether they may be in the file.
        """
        if VALID_MASK in names:
            raise InputError(
                "fields: a compact export holds no valid_mask, all its pairs are valid"
            )

    def leading(self, table: Table, num_pairs: int) -> tuple[int, int]:
        """The first two axes of each array, those of pairs."""
        return num_pairs, 1

    def arrays(self, table: Table, fields: Iterable[Field], num_pairs: int) -> dict[str, ArraySpec]:
        """Shape and dtype of each array."""
        leading = self.leading(table, num_pairs)
        arrays = {
            f.name: ((*leading, *exported_row(f)), exported_dtype(f))
            for f in fields
            if f.name != VALID_MASK
        }
        if self.holds_every_pair and table.has_mask:
            arrays[VALID_MASK] = leading, "bool"
        return arrays

    def notes(self, table: Table) -> Iterator[str]:
        """What the reader of the file should know of the layout, one sentence each."""
        return iter(())


class Grid(Compact):
    """Every pair at its step and environment."""

    name, holds_every_pair = GRID, True

    def check_stores(self, table: Table) -> None:
        """Refuse stores of different widths.

        Raises:
            StoreMismatchError: Naming each store's number of environments.
        """
        if not table.has_one_width:
            widths = ", ".join(f"{p.address} has {p.state.num_envs}" for p in table.parts)
            raise StoreMismatchError(
                f"a grid of several stores needs one number of environments in all: {widths}; "
                "use layout='compact'"
            )

    def check_fields(
        self, names: Sequence[str], nonfinite: Mapping[str, int], allow_nonfinite: bool
    ) -> None:
        """Refuse NaN and infinity.

        Raises:
            NonFiniteError: Naming each field, and how many pairs hold them.
        """
        if nonfinite and not allow_nonfinite:
            counts = ", ".join(f"{name}: {count} pairs" for name, count in nonfinite.items())
            raise NonFiniteError(
                f"a grid would hold NaN or infinity ({counts}), and MOSAIC's update crashes on it: "
                "use layout='compact', or allow_nonfinite=True"
            )

    def leading(self, table: Table, num_pairs: int) -> tuple[int, int]:
        """Steps and environments."""
        num_envs = table.state.num_envs
        return num_pairs // num_envs, num_envs

    def notes(self, table: Table) -> Iterator[str]:
        """Note invalid rows."""
        if table.state.num_valid < table.state.num_pairs:
            yield "MOSAIC ignores valid_mask and trains on the invalid rows of this grid"


#: Layouts by name.
LAYOUTS: dict[str, Compact] = {layout.name: layout for layout in (Grid(), Compact())}


def automatic_layout(table: Table, nonfinite: Mapping[str, int], excludes: bool) -> Compact:
    """A grid if every pair is valid and finite, else compact.

    Args:
        table: The stores; the columns of a merged grid would be no environment's own time.
        nonfinite: Per field that holds NaN or infinity, the number of such pairs.
        excludes: Whether pairs are to be left out.
    """
    all_valid = table.state.num_valid == table.state.num_pairs
    plain = len(table.parts) == 1 and all_valid and not nonfinite and not excludes
    return LAYOUTS[GRID if plain else COMPACT]


def is_flattened(field: Field) -> bool:
    """Whether several axes of the field become one."""
    return field.has_axes and field.name in MOSAIC_FIELDS


def exported_row(field: Field) -> tuple[int, ...]:
    """Shape of a row in the file."""
    return (field.width,) if is_flattened(field) else field.row_shape


def exported_dtype(field: Field) -> str:
    """float32 for floats, which is all that MOSAIC's networks take; others as stored."""
    return "float32" if field.is_float else field.dtype


def check_rows(fields: Iterable[Field]) -> None:
    """Refuse images as what MOSAIC trains on: it would not normalise them, and crash on uint8.

    Raises:
        InputError: Naming each field.
    """
    images = [f for f in fields if is_flattened(f) and not f.is_float]
    if images:
        wrong = ", ".join(f"{f.name} is {f.dtype} of {f.dim}" for f in images)
        raise InputError(
            f"fields: MOSAIC takes rows of float32, but {wrong}: leave it out by naming the other "
            "fields"
        )
