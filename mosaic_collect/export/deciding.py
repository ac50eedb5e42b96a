"""Which pairs and fields an export will hold, and in which layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from mosaic_collect.errors import (
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
    StoreMismatchError,
)
from mosaic_collect.export.about import about
from mosaic_collect.export.options import AUTO, Options
from mosaic_collect.export.plan import ExportPlan
from mosaic_collect.export.rows import check_rows, exported_dtype, exported_row
from mosaic_collect.npyfile.layout import COMPACT, GRID, ArraySpec, plan_file
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.provenance import check_alike
from mosaic_collect.reading.selection import (
    Left,
    Rules,
    chosen_fields,
    every_pair,
    make_rules,
    nonfinite_fields,
    select,
)
from mosaic_collect.reading.store_set import StoreSet, check_mergeable
from mosaic_collect.reading.table import Table
from mosaic_collect.store.metadata import COLLECTING, COMPLETE
from mosaic_collect.store.ranks import Addresses, Place
from mosaic_collect.store.schema import VALID_MASK, Field
from mosaic_collect.store.view import StoreView


def plan_export(stores: Addresses, options: Options, engine: Engine | None = None) -> ExportPlan:
    """Decide an export: it says what the file will be, and writes it when asked to.

    Args:
        stores: As of ``export_npy``, whose errors these are, too, but for those of the file.
        options: Which pairs and fields, and how they shall lie.
        engine: Who reads what must be read for that; None: threads here.
    """
    found = StoreSet.open(Place.of(stores, "store"))
    for store in found.stores:
        if store.view is None and not store.is_rank:
            _check_store(store.blobs.address, COLLECTING, 0, options)
    return decide(found.with_steps(options.allow_incomplete), options, engine)


def decide(
    views: Sequence[StoreView], options: Options, engine: Engine | None = None
) -> ExportPlan:
    """``plan_export`` of snapshots that are there already."""
    for view in views:
        _check_store(view.address, view.state.status, view.state.committed_steps, options)
    names = _compared(views, options)
    check_mergeable(views, names)
    metadata_of = {view.address: view.state.metadata for view in views}
    check_alike(metadata_of, names, options.allow_different)
    table = Table(views)
    if options.layout == GRID:
        _check_grid(table)
    fields = chosen_fields(table.state.schema, options.fields)
    check_rows(fields)
    # Around damage every field is looked into anyway, and cannot be counted before.
    nonfinite = {} if options.skip_damaged else nonfinite_fields(table, fields, engine)
    layout = _layout(table, nonfinite, options)
    if layout == GRID:
        selection, left = every_pair(table), Left()
    else:
        rules = _rules(table, fields, nonfinite, options, engine)
        selection, left = select(table, rules, engine)
    if not selection.num_pairs:
        raise ExportError(f"{table.address}: no pair is left to export: {_reasons(left)}")
    arrays = _arrays(table, layout, fields, selection.num_pairs)
    metadata = about(table, layout, arrays, selection.num_pairs, left, options)
    file = plan_file(arrays, {"metadata": metadata})
    finite = not (layout == GRID and options.allow_nonfinite)
    return ExportPlan(table, layout, selection, left, arrays, metadata, file, finite)


def _check_store(address: str, status: str, steps: int, options: Options) -> None:
    if status != COMPLETE and not options.allow_incomplete:
        raise IncompleteStoreError(
            f"{address} is still collecting ({steps} steps committed): finish "
            "it, or export what is there with allow_incomplete=True"
        )
    if not steps:
        raise ExportError(f"{address}: no committed step, nothing to export")


def _check_grid(table: Table) -> None:
    if not table.has_one_width:
        widths = ", ".join(f"{p.address} has {p.state.num_envs}" for p in table.parts)
        raise StoreMismatchError(
            f"a grid of several stores needs one number of environments in all: {widths}; "
            "use layout='compact'"
        )


def _compared(views: Sequence[StoreView], options: Options) -> Sequence[str]:
    """Names of the fields that any store would export: in them all must be alike."""
    if options.fields is not None:
        return options.fields
    return [f.name for v in views for f in chosen_fields(v.state.schema, options.fields)]


def _layout(table: Table, nonfinite: dict[str, int], options: Options) -> str:
    if options.layout == GRID:
        if nonfinite and not options.allow_nonfinite:
            raise NonFiniteError(
                f"a grid would hold NaN or infinity ({_pairs(nonfinite)}), and MOSAIC's update "
                "crashes on it: use layout='compact', or allow_nonfinite=True"
            )
        return GRID
    all_valid = table.state.num_valid == table.state.num_pairs
    excluding = options.exclude_truncated or options.exclude_failed or options.skip_damaged
    plain = options.max_pairs is None and not excluding
    one = len(table.parts) == 1  # the columns of a merged grid are no environment's own time
    if options.layout == AUTO and one and all_valid and plain and not nonfinite:
        return GRID
    if options.fields is not None and VALID_MASK in options.fields:
        raise InputError("fields: a compact export holds no valid_mask, all its pairs are valid")
    return COMPACT


def _rules(
    table: Table,
    fields: list[Field],
    nonfinite: dict[str, int],
    options: Options,
    engine: Engine | None,
) -> Rules:
    return make_rules(
        table,
        fields,
        nonfinite,
        skip_damaged=options.skip_damaged,
        exclude_truncated=options.exclude_truncated,
        exclude_failed=options.exclude_failed,
        engine=engine,
        max_pairs=options.max_pairs,
        seed=options.seed,
    )


def _arrays(table: Table, layout: str, fields: list[Field], num_pairs: int) -> dict[str, ArraySpec]:
    num_envs = table.parts[0].state.num_envs
    leading = (num_pairs // num_envs, num_envs) if layout == GRID else (num_pairs, 1)
    arrays = {
        f.name: ArraySpec((*leading, *exported_row(f)), exported_dtype(f))
        for f in fields
        if f.name != VALID_MASK
    }
    if layout == GRID and table.has_mask:
        arrays[VALID_MASK] = ArraySpec(leading, "bool")
    return arrays


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count} pairs" for name, count in counts.items())


def _reasons(left: Left) -> str:
    found = [f"{count} {name}" for name, count in asdict(left).items() if count]
    return ", ".join(found) or "there is none"
