"""What a store or an exported ``.npy`` contains, without loading it and without unpickling."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from zipfile import is_zipfile

from mosaic_collect.checks import local_path
from mosaic_collect.npyfile.layout import of_mosaic
from mosaic_collect.npyfile.read import scan_npy
from mosaic_collect.passes.engine import Engine
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.reading.summary import (
    FIELD_HEAD,
    FieldSummary,
    Summary,
    field_rows,
    store_summary,
)
from mosaic_collect.store.objects import is_url
from mosaic_collect.store.ranks import Addresses
from mosaic_collect.store.schema import VALID_MASK
from mosaic_collect.text import shown, table

_MOST_STORES = 20
_PLAIN_LENGTH = 60  # characters of a metadata value that is shown without being asked for
_MOST_PLAIN = 12


def summarize(path: Addresses, engine: Engine | None = None) -> Summary:
    """Summarise a store (a folder), several as one, or an export (a file).

    Args:
        path: Address of a store, or path of an export.
        engine: Engine that counts failed trajectories; None: this thread.

    Raises:
        FileNotFoundError, StoreError, CorruptExportError: The path is neither a store nor an
            export, or is damaged.
        InputError: A URL, or a zip archive.
        ClusterError: The engine's workers fail.
    """
    if isinstance(path, (str, os.PathLike)) and not is_url(path):
        name = local_path(path, "path")
        if os.path.isfile(name) and not is_zipfile(name):
            return _export_summary(name)
    return store_summary(TrajectoryDataset(path), engine)


def summary_text(summary: Summary, metadata: bool = False) -> str:
    """A summary for a terminal.

    Args:
        summary: The store or export.
        metadata: Show all metadata, not only short values.
    """
    lines = [f"{summary.kind} {summary.path}"]
    lines += [f"  {name + ':':14}{shown(value)}" for name, value in summary.facts]
    if summary.fields:
        lines += ["", table(FIELD_HEAD, field_rows(summary), right_from=2)]
    return "\n".join([*lines, *_metadata_lines(summary.metadata, metadata)])


def _metadata_lines(metadata: dict[str, Any], everything: bool) -> Iterator[str]:
    plain = [key for key, value in metadata.items() if everything or _is_plain(value)]
    chosen = plain if everything else plain[:_MOST_PLAIN]
    if chosen:
        yield "\n  metadata:"
        yield from (f"    {shown(key)}: {shown(metadata[key])}" for key in chosen)
    if more := len(metadata) - len(chosen):
        yield f"\n  {more} {'more ' if chosen else ''}metadata entries: --metadata shows them"


def _is_plain(value: Any) -> bool:
    """Whether a metadata value says something to a person, in a line."""
    return value is not None and not isinstance(value, dict) and len(shown(value)) <= _PLAIN_LENGTH


def _export_summary(path: str) -> Summary:
    file = scan_npy(path)
    fields = tuple(
        FieldSummary(name, a.shape, str(a.dtype), a.nbytes, a.nbytes, None)
        for name, a in file.arrays.items()
    )
    own, ours = file.metadata, file.provenance
    facts = [
        ("valid pairs", shown(own.get("num_steps", "not said"))),
        ("trajectories", shown(own.get("num_trajectories", "not said"))),
        ("valid_mask", "yes" if VALID_MASK in file.arrays else "no: every row counts"),
    ]
    if ours:
        facts += [
            ("layout", shown(ours.get("layout"))),
            ("left out", _left_out(ours.get("left_out"))),
            *(("from", store) for store in _sources(ours)),
        ]
    figures = {
        "num_valid": own.get("num_steps"),
        "num_trajectories": own.get("num_trajectories"),
        "has_valid_mask": VALID_MASK in file.arrays,
        "provenance": ours,
    }
    return Summary(path, "export", fields, tuple(facts), figures, of_mosaic(own))


def _sources(ours: dict[str, Any]) -> list[str]:
    """The store that was exported, or each of several."""
    stores = ours.get("stores")
    if not isinstance(stores, list):
        return [_store_size(ours)]
    named = [
        f"{_store_size(store)}: {shown(store.get('path'))}"
        if isinstance(store, dict)
        else shown(store)
        for store in stores[:_MOST_STORES]
    ]
    more = len(stores) - len(named)
    return [*named, f"{more} more"] if more else named


def _store_size(store: dict[str, Any]) -> str:
    return f"{shown(store.get('store_steps'))} steps x {shown(store.get('store_envs'))} envs"


def _left_out(counts: Any) -> str:
    if not isinstance(counts, dict):
        return shown(counts)
    return ", ".join(f"{shown(v)} {shown(k)}" for k, v in counts.items() if v) or "nothing"
