"""``export_npy``: a store, or several, as the single ``.npy`` dict that MOSAIC loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from mosaic_collect.export.deciding import plan_export
from mosaic_collect.export.options import AUTO, Options
from mosaic_collect.export.report import ExportReport
from mosaic_collect.export.target import check_target
from mosaic_collect.passes.engine import Engine
from mosaic_collect.store.ranks import Addresses, addresses_of


def export_npy(
    store: Addresses,
    path: str | os.PathLike[str],
    layout: str = AUTO,
    fields: Sequence[str] | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    *,
    allow_incomplete: bool = False,
    allow_nonfinite: bool = False,
    exclude_truncated: bool = False,
    exclude_failed: bool = False,
    skip_damaged: bool = False,
    allow_different: Sequence[str] = (),
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> ExportReport:
    """Write a store's pairs as one ``.npy`` file, in bounded memory.

    After a return the file is whole and survives a power cut; after an error or a kill a file
    that had the name before is still there, untouched.

    Args:
        store: The store, or several that hold the same fields (a folder of ranks, a pattern, a
            list of these): their pairs follow one another in the order named. Their numbers of
            environments may differ. A trajectory id is raised by the number of ids that the stores
            before have used, so each stays unique; motion ids are numbered through the motions
            of all stores.
        path: The file, ``*.npy``; one of that name is replaced.
        layout: ``grid``: every pair, ``[T, N, D]``, with ``valid_mask`` if one was given or a
            pair is invalid. ``compact``: only valid, finite pairs, ``[M, 1, D]``, ordered by step,
            then environment. ``auto``: grid if every pair is valid and finite, else compact,
            because MOSAIC ignores the mask and would train on invalid rows. Several stores are
            compact unless a grid is asked for, in which their steps follow one another; it needs
            one number of environments in all.
        fields: Fields to export, ``trajectory_id`` among them; by default MOSAIC's. Several stores
            must have these fields alike; their other fields may differ. MOSAIC's fields of several
            axes become flat rows, in C order; other fields keep their axes.
        max_pairs: Draw that many pairs uniformly, for a compact file.
        seed: Seed of the draw; with one seed, a larger draw contains the smaller.
        allow_incomplete: Export a store that is still collecting, or ranks of which one is missing.
        allow_nonfinite: Let a grid hold NaN or infinity.
        exclude_truncated: Leave out trajectories that never ended.
        exclude_failed: Leave out trajectories that failed, such as by a fall, from their first row
            on. They are found in a separate pass over ``trajectory_end``, which takes 8 bytes of
            memory for each.
        skip_damaged: Leave out pairs whose bytes are damaged, instead of refusing.
        allow_different: Entries of the metadata that may differ between several stores:
            ``simulator``, ``task``, ``groups`` and ``terms`` (columns of observations, in their
            order), ``observations`` (their settings). The report notes the differences.
        progress: Told the bytes of arrays written since the last call.
        engine: Who reads and writes; None: threads here. A cluster's workers write into the one
            file, which lies, as the stores do, on storage that they share.

    Raises:
        InputError: A bad argument or target, one of MOSAIC's fields that holds images, or
            ``exclude_failed`` of a store that does not say how its trajectories ended.
        StoreNotFoundError, NewerFormatError, CorruptStoreError: Of a store.
        StoreMismatchError: The stores' fields differ, or a grid's numbers of environments; or
            their origins, and that is not allowed.
        IncompleteStoreError: Still collecting, or a rank is missing.
        ExportError: No pair is left to export; NonFiniteError: NaN in a grid.
        SpaceError: Not enough disk; WriteError: The file cannot be written.
        ClusterError: Of the engine.
    """
    target = check_target(path, addresses_of(store))
    options = Options(
        layout=layout,
        fields=fields,
        max_pairs=max_pairs,
        seed=seed,
        allow_incomplete=allow_incomplete,
        allow_nonfinite=allow_nonfinite,
        exclude_truncated=exclude_truncated,
        exclude_failed=exclude_failed,
        skip_damaged=skip_damaged,
        allow_different=allow_different,
    )
    return plan_export(store, options, engine).write(target, progress, engine)
