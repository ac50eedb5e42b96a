"""What an export will hold, decided and checked before its first byte."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_collect.dataset import TrajectoryDataset
from mosaic_collect.ends import failed_ids
from mosaic_collect.errors import (
    ExportError,
    IncompleteStoreError,
    InputError,
    NonFiniteError,
)
from mosaic_collect.export.pickle_stream import ArraySpec, FilePlan, plan_file
from mosaic_collect.export.selection import Left, Rules, Selection, every_pair, select
from mosaic_collect.export.source import SLAB_NBYTES, Source, exported
from mosaic_collect.metadata import COMPLETE, Run, StoreState
from mosaic_collect.schema import MOSAIC_FIELDS, TRAJECTORY_ID, VALID_MASK, Field
from mosaic_collect.stats import all_finite, finite_rows
from mosaic_collect.truncation import truncated_ids

AUTO, GRID, COMPACT = "auto", "grid", "compact"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may say of an export; see ``export_npy``."""

    layout: str = AUTO
    fields: Sequence[str] | None = None
    max_pairs: int | None = None
    seed: int = 0
    allow_incomplete: bool = False
    allow_nonfinite: bool = False
    exclude_truncated: bool = False
    exclude_failed: bool = False
    skip_damaged: bool = False


@dataclass(frozen=True)
class ExportPlan:
    """A decided export.

    Attributes:
        source: The store.
        layout: ``grid`` or ``compact``.
        selection: Which pairs, in the file's order.
        left: Which not, and why.
        arrays: Key -> shape and dtype.
        metadata: MOSAIC's dict, with ours under ``mosaic_collect``.
        file: Where everything goes.
        check_finite: Whether a NaN met on the way contradicts what was found.
    """

    source: Source
    layout: str
    selection: Selection
    left: Left
    arrays: dict[str, ArraySpec]
    metadata: dict[str, Any]
    file: FilePlan
    check_finite: bool

    @property
    def arrays_nbytes(self) -> int:
        """Bytes of all arrays: what MOSAIC moves to the training device, on every rank."""
        return sum(spec.nbytes for spec in self.arrays.values())


def plan_export(dataset: TrajectoryDataset, options: Options) -> ExportPlan:
    """Decide an export; arguments and errors as ``export_npy``'s."""
    _check_options(options)
    _check_store(dataset, options)
    # Damage is gone around chunk by chunk.
    source = Source(dataset, 1 if options.skip_damaged else SLAB_NBYTES)
    fields = _chosen_fields(source.state, options)
    # Around damage every field is looked into anyway, and cannot be counted before.
    nonfinite = {} if options.skip_damaged else _nonfinite(source, fields)
    layout = _layout(source.state, nonfinite, options)
    if layout == GRID:
        selection, left = every_pair(source), Left()
    else:
        selection, left = select(source, _rules(dataset, fields, nonfinite, options))
    if not selection.num_pairs:
        raise ExportError(f"{source.path}: no pair is left to export: {_reasons(left)}")
    arrays = _arrays(source.state, layout, fields, selection.num_pairs)
    metadata = _metadata(source.state, layout, arrays, selection.num_pairs, left, options)
    file = plan_file(arrays, {"metadata": metadata})
    finite = not (layout == GRID and options.allow_nonfinite)
    return ExportPlan(source, layout, selection, left, arrays, metadata, file, finite)


def _check_options(options: Options) -> None:
    if options.layout not in (AUTO, GRID, COMPACT):
        raise InputError(f"layout: expected auto, grid or compact, got {options.layout!r}")
    whole = isinstance(options.max_pairs, int) and not isinstance(options.max_pairs, bool)
    if options.max_pairs is not None and not (whole and options.max_pairs >= 1):
        raise InputError(f"max_pairs: expected at least 1, got {options.max_pairs!r}")
    if not isinstance(options.seed, int) or options.seed < 0:
        raise InputError(f"seed: expected a whole number from 0, got {options.seed!r}")
    compact_only = {
        "max_pairs": options.max_pairs is not None,
        "exclude_truncated": options.exclude_truncated,
        "exclude_failed": options.exclude_failed,
        "skip_damaged": options.skip_damaged,
    }
    asked = [name for name, value in compact_only.items() if value]
    if options.layout == GRID and asked:
        raise InputError(f"{', '.join(asked)}: a grid holds every pair; use layout='compact'")


def _check_store(dataset: TrajectoryDataset, options: Options) -> None:
    if dataset.status != COMPLETE and not options.allow_incomplete:
        raise IncompleteStoreError(
            f"{dataset.path} is still collecting ({dataset.num_steps} steps committed): finish "
            "it, or export what is there with allow_incomplete=True"
        )
    if not dataset.num_steps:
        raise ExportError(f"{dataset.path}: no committed step, nothing to export")


def _chosen_fields(state: StoreState, options: Options) -> list[Field]:
    """By name and in the store's order; by default MOSAIC's, or all if the store has none."""
    stored = state.schema.stored
    if options.fields is None:
        ours = [f for f in state.schema.fields if f.name in MOSAIC_FIELDS]
        return ours or [state.schema[name] for name in state.schema.names]
    names = [options.fields] if isinstance(options.fields, str) else list(options.fields)
    for name in names:
        state.schema[name]
    if not set(names) - {VALID_MASK}:
        raise InputError("fields: expected at least one, got none")
    return [f for f in stored if f.name in names]


def _nonfinite(source: Source, fields: list[Field]) -> dict[str, int]:
    """Per field of the export that holds any: pairs with NaN or infinity, as the file has them."""
    counts = {f.name: source.state.nonfinite.get(f.name, 0) for f in fields}
    # float64 turns infinite beyond float32's range, which the store's own counts do not tell.
    counts.update({f.name: _count_nonfinite(source, f) for f in fields if f.dtype == "float64"})
    return {name: count for name, count in counts.items() if count}


def _count_nonfinite(source: Source, field: Field) -> int:
    count = 0
    for block in range(source.num_blocks):
        for envs in source.slabs(source.state.grid(field.name)):
            values = exported(source.read(field.name, block, envs), np.float32)
            count += 0 if all_finite(values) else int(np.count_nonzero(~finite_rows(values)))
    return count


def _layout(state: StoreState, nonfinite: dict[str, int], options: Options) -> str:
    if options.layout == GRID:
        if nonfinite and not options.allow_nonfinite:
            raise NonFiniteError(
                f"a grid would hold NaN or infinity ({_pairs(nonfinite)}), and MOSAIC's update "
                "crashes on it: use layout='compact', or allow_nonfinite=True"
            )
        return GRID
    all_valid = state.num_valid == state.num_pairs
    excluding = options.exclude_truncated or options.exclude_failed or options.skip_damaged
    plain = options.max_pairs is None and not excluding
    if options.layout == AUTO and all_valid and plain and not nonfinite:
        return GRID
    if options.fields is not None and VALID_MASK in options.fields:
        raise InputError("fields: a compact export holds no valid_mask, all its pairs are valid")
    return COMPACT


def _rules(
    dataset: TrajectoryDataset,
    fields: list[Field],
    nonfinite: dict[str, int],
    options: Options,
) -> Rules:
    names = [f.name for f in fields]
    floats = [f.name for f in fields if f.dtype.startswith("float")]
    return Rules(
        fields=names,
        finite_fields=floats if options.skip_damaged else list(nonfinite),
        skip_damaged=options.skip_damaged,
        truncated_ids=_truncated(dataset) if options.exclude_truncated else None,
        failed_ids=failed_ids(dataset.path, dataset.state) if options.exclude_failed else None,
        max_pairs=options.max_pairs,
        seed=options.seed,
    )


def _truncated(dataset: TrajectoryDataset) -> NDArray[np.int64]:
    return truncated_ids(dataset.state, lambda step: dataset.read(TRAJECTORY_ID, step, step + 1)[0])


def _arrays(
    state: StoreState, layout: str, fields: list[Field], num_pairs: int
) -> dict[str, ArraySpec]:
    leading = (state.committed_steps, state.num_envs) if layout == GRID else (num_pairs, 1)
    arrays = {
        f.name: ArraySpec((*leading, *f.row_shape), export_dtype(f))
        for f in fields
        if f.name != VALID_MASK
    }
    if layout == GRID and _has_mask(state):
        arrays[VALID_MASK] = ArraySpec(leading, "bool")
    return arrays


def export_dtype(field: Field) -> str:
    """float32 for floats, which is all that MOSAIC's networks take; others as stored."""
    return "float32" if field.dtype.startswith("float") else field.dtype


def _has_mask(state: StoreState) -> bool:
    return state.has_mask or state.num_valid < state.num_pairs


def _metadata(
    state: StoreState,
    layout: str,
    arrays: dict[str, ArraySpec],
    num_pairs: int,
    left: Left,
    options: Options,
) -> dict[str, Any]:
    dims = {f.name: f.dim for f in state.schema.fields if f.name.endswith("observations")}
    action = [f.dim for f in state.schema.fields if f.name == "actions"]
    return {
        "num_trajectories": state.num_trajectories,
        "num_steps": num_pairs if layout == COMPACT else state.num_valid,
        "obs_dim_dict": dims,
        "action_dim": action[0] if action else None,
        "has_valid_mask": VALID_MASK in arrays,
        "mosaic_collect": _provenance(state, layout, left, options),
    }


def _provenance(state: StoreState, layout: str, left: Left, options: Options) -> dict[str, Any]:
    asked = asdict(options)
    asked["fields"] = None if options.fields is None else list(options.fields)
    return {
        "layout": layout,
        "options": asked,
        "left_out": asdict(left),
        "store_status": state.status,
        "store_steps": state.committed_steps,
        "store_envs": state.num_envs,
        "runs": [_run(run) for run in state.runs],
        "metadata": state.metadata,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "first_step": run.first_step,
        "started": run.started,
        "versions": dict(run.versions),
    }


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count} pairs" for name, count in counts.items())


def _reasons(left: Left) -> str:
    found = [f"{count} {name}" for name, count in asdict(left).items() if count]
    return ", ".join(found) or "there is none"


def default_target(store: str) -> str:
    """Beside the store, by its name."""
    return os.path.splitext(store.rstrip(os.sep))[0] + ".npy"
