"""Which pairs and fields an export will hold, and in which layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from mosaic_collect.errors import (
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
)
from mosaic_collect.export.about import about
from mosaic_collect.export.options import AUTO, Options
from mosaic_collect.export.plan import ExportPlan
from mosaic_collect.export.rows import check_rows, exported_dtype, exported_row
from mosaic_collect.npyfile.layout import COMPACT, GRID, ArraySpec, plan_file
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.alike import check_alike
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.merging import check_grid, check_mergeable, open_each
from mosaic_collect.reading.ruling import chosen_fields, make_rules, nonfinite_fields
from mosaic_collect.reading.selection import Left, Rules, every_pair, select
from mosaic_collect.reading.union import SLAB_NBYTES, Source
from mosaic_collect.store.address import Addresses
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.schema import VALID_MASK, Field


def plan_export(stores: Addresses, options: Options, engine: Engine | None = None) -> ExportPlan:
    """Decide an export: it says what the file will be, and writes it when asked to.

    Args:
        stores: As of ``export_npy``, whose errors these are, too, but for those of the file.
        options: Which pairs and fields, and how they shall lie.
        engine: Who reads what must be read for that; None: threads here.
    """
    return decide(open_each(stores, options.allow_incomplete), options, engine)


def decide(
    datasets: Sequence[TrajectoryDataset], options: Options, engine: Engine | None = None
) -> ExportPlan:
    """``plan_export`` of snapshots that are there already."""
    for dataset in datasets:
        _check_store(dataset, options)
    names = _compared(datasets, options)
    check_mergeable(datasets, names)
    told = {d.path: d.state.metadata for d in datasets}
    check_alike(told, names, options.allow_different)
    if options.layout == GRID:
        check_grid(datasets)
    # Damage is gone around chunk by chunk.
    source = Source(datasets, 1 if options.skip_damaged else SLAB_NBYTES)
    fields = chosen_fields(source.schema, options.fields)
    check_rows(fields)
    # Around damage every field is looked into anyway, and cannot be counted before.
    nonfinite = {} if options.skip_damaged else nonfinite_fields(source, fields, engine)
    layout = _layout(source, nonfinite, options)
    if layout == GRID:
        selection, left = every_pair(source), Left()
    else:
        rules = _rules(source, fields, nonfinite, options, engine)
        selection, left = select(source, rules, engine)
    if not selection.num_pairs:
        raise ExportError(f"{source.path}: no pair is left to export: {_reasons(left)}")
    arrays = _arrays(source, layout, fields, selection.num_pairs)
    metadata = about(source, layout, arrays, selection.num_pairs, left, options)
    file = plan_file(arrays, {"metadata": metadata})
    finite = not (layout == GRID and options.allow_nonfinite)
    return ExportPlan(source, layout, selection, left, arrays, metadata, file, finite)


def _check_store(dataset: TrajectoryDataset, options: Options) -> None:
    if dataset.status != COMPLETE and not options.allow_incomplete:
        raise IncompleteStoreError(
            f"{dataset.path} is still collecting ({dataset.num_steps} steps committed): finish "
            "it, or export what is there with allow_incomplete=True"
        )
    if not dataset.num_steps:
        raise ExportError(f"{dataset.path}: no committed step, nothing to export")


def _compared(datasets: Sequence[TrajectoryDataset], options: Options) -> Sequence[str]:
    """Names of the fields that any store would export: in them all must be alike."""
    if options.fields is not None:
        return options.fields
    return [f.name for d in datasets for f in chosen_fields(d.schema, options.fields)]


def _layout(source: Source, nonfinite: dict[str, int], options: Options) -> str:
    if options.layout == GRID:
        if nonfinite and not options.allow_nonfinite:
            raise NonFiniteError(
                f"a grid would hold NaN or infinity ({_pairs(nonfinite)}), and MOSAIC's update "
                "crashes on it: use layout='compact', or allow_nonfinite=True"
            )
        return GRID
    all_valid = source.num_valid == source.num_pairs
    excluding = options.exclude_truncated or options.exclude_failed or options.skip_damaged
    plain = options.max_pairs is None and not excluding
    one = len(source.parts) == 1  # the columns of a merged grid are no environment's own time
    if options.layout == AUTO and one and all_valid and plain and not nonfinite:
        return GRID
    if options.fields is not None and VALID_MASK in options.fields:
        raise InputError("fields: a compact export holds no valid_mask, all its pairs are valid")
    return COMPACT


def _rules(
    source: Source,
    fields: list[Field],
    nonfinite: dict[str, int],
    options: Options,
    engine: Engine | None,
) -> Rules:
    return make_rules(
        source,
        fields,
        nonfinite,
        skip_damaged=options.skip_damaged,
        exclude_truncated=options.exclude_truncated,
        exclude_failed=options.exclude_failed,
        engine=engine,
        max_pairs=options.max_pairs,
        seed=options.seed,
    )


def _arrays(
    source: Source, layout: str, fields: list[Field], num_pairs: int
) -> dict[str, ArraySpec]:
    num_envs = source.parts[0].state.num_envs
    leading = (num_pairs // num_envs, num_envs) if layout == GRID else (num_pairs, 1)
    arrays = {
        f.name: ArraySpec((*leading, *exported_row(f)), exported_dtype(f))
        for f in fields
        if f.name != VALID_MASK
    }
    if layout == GRID and source.has_mask:
        arrays[VALID_MASK] = ArraySpec(leading, "bool")
    return arrays


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count} pairs" for name, count in counts.items())


def _reasons(left: Left) -> str:
    found = [f"{count} {name}" for name, count in asdict(left).items() if count]
    return ", ".join(found) or "there is none"
