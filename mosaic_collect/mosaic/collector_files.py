"""The store and the file of ``ExpertTrajectoryCollector``, MOSAIC's dict in one ``.npy``."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mosaic_collect.errors import CorruptExportError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.export.target import check_target
from mosaic_collect.npyfile.read import read_npy
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.ranks import blobs_at

_log = logging.getLogger(__name__)
_ENDING = ".npy"


def new_store() -> str:
    """The path of a store in the working directory, not made yet."""
    path = os.path.abspath(time.strftime("expert_trajectories-%Y%m%d-%H%M%S.zarr"))
    path = beside(path) if blobs_at(path).is_taken() else path
    _log.warning("no store was named: steps are streamed to %s", path)
    return path


def beside(path: str) -> str:
    """A free name like ``path``'s, with a number."""
    stem, ending = os.path.splitext(path.rstrip(os.sep))
    names = (f"{stem}-{number}{ending}" for number in itertools.count(2))
    return next(name for name in names if not blobs_at(name).is_taken())


def npy_name(path: str) -> str:
    """The name under which MOSAIC will find the file."""
    if path.endswith(_ENDING):
        return path
    _log.warning("MOSAIC loads only names ending in .npy: saving to %s%s", path, _ENDING)
    return path + _ENDING


def save_file(store: Blobs, path: str, num_trajectories: int, options: Mapping[str, Any]) -> None:
    """Export a store that may be collecting still; errors as ``export_npy``'s.

    Args:
        store: The store; what is committed is exported.
        path: The file, ``*.npy``; its folder is made if need be.
        num_trajectories: Number of trajectories that were marked as ended; a store knows them only
            with their environments.
        options: Options of ``export_npy``.
    """
    options = dict(options)
    progress = options.pop("progress", None)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    check_target(path, [store.address])
    told = {"num_trajectories": num_trajectories}
    asked = Options(**{"allow_incomplete": True, **options}, metadata=told)
    report = plan_export(store, asked).write(path, progress)
    _log.info("saved %d pairs, %s, to %s", report.num_pairs, report.layout, path)


def load_file(path: str, device: Any) -> dict[str, Any]:
    """Tensors and ``metadata`` of a file; errors as ``ExpertTrajectoryCollector.load``'s."""
    try:
        content = read_npy(path)
    except CorruptExportError as error:
        raise CorruptExportError(f"expected a whole .npy file of arrays: {error}") from error
    if "metadata" not in content:
        raise CorruptExportError(f"{path}: expected a dict of arrays with metadata")
    others = [k for k, v in content.items() if k != "metadata" and not isinstance(v, np.ndarray)]
    if others:
        raise CorruptExportError(f"{path}: expected arrays, got others for {', '.join(others)}")
    return {
        key: value if key == "metadata" else torch.from_numpy(value).to(device)
        for key, value in content.items()
    }
