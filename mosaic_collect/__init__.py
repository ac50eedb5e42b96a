"""Record what robot policies do, at any size, without losing a step.

The public names are loaded when first used: reading a store needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_collect.dataset import TrajectoryDataset
    from mosaic_collect.export import ExportReport, export_npy
    from mosaic_collect.importing import ImportReport, import_npy
    from mosaic_collect.mosaic.collector import ExpertTrajectoryCollector
    from mosaic_collect.mosaic.student_obs import (
        StudentObsBuilder,
        create_student_obs_builder_from_env_cfg,
    )
    from mosaic_collect.schema import Field, Schema
    from mosaic_collect.writer import TrajectoryWriter, WriterStats

__version__ = "0.1.0"
__all__ = [
    "ExpertTrajectoryCollector",
    "ExportReport",
    "Field",
    "ImportReport",
    "Schema",
    "StudentObsBuilder",
    "TrajectoryDataset",
    "TrajectoryWriter",
    "WriterStats",
    "create_student_obs_builder_from_env_cfg",
    "export_npy",
    "import_npy",
]

_HOMES = {
    "ExpertTrajectoryCollector": "mosaic_collect.mosaic.collector",
    "ExportReport": "mosaic_collect.export",
    "Field": "mosaic_collect.schema",
    "ImportReport": "mosaic_collect.importing",
    "Schema": "mosaic_collect.schema",
    "StudentObsBuilder": "mosaic_collect.mosaic.student_obs",
    "TrajectoryDataset": "mosaic_collect.dataset",
    "TrajectoryWriter": "mosaic_collect.writer",
    "WriterStats": "mosaic_collect.writer",
    "create_student_obs_builder_from_env_cfg": "mosaic_collect.mosaic.student_obs",
    "export_npy": "mosaic_collect.export",
    "import_npy": "mosaic_collect.importing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
