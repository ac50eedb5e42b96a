"""Record what robot policies do, at any size, without losing a step.

The public names are loaded when first used: reading a store needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_collect.adapters.isaaclab.options import (
        IsaacLabCollectOptions as IsaacLabCollectOptions,
    )
    from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions as MjlabCollectOptions
    from mosaic_collect.adapters.rsl_rl.collect import CollectResult as CollectResult
    from mosaic_collect.collection.student import save_student as save_student
    from mosaic_collect.mosaic.collector import (
        ExpertTrajectoryCollector as ExpertTrajectoryCollector,
    )
    from mosaic_collect.reading.dataset import TrajectoryDataset as TrajectoryDataset
    from mosaic_collect.errors import (
        BusyError as BusyError,
        ClosedError as ClosedError,
        ClusterError as ClusterError,
        CorruptExportError as CorruptExportError,
        CorruptStoreError as CorruptStoreError,
        ExportError as ExportError,
        FieldNotFoundError as FieldNotFoundError,
        IncompleteStoreError as IncompleteStoreError,
        InputError as InputError,
        MissingDependencyError as MissingDependencyError,
        MosaicCollectError as MosaicCollectError,
        NewerFormatError as NewerFormatError,
        NonFiniteError as NonFiniteError,
        SpaceError as SpaceError,
        StoreError as StoreError,
        StoreExistsError as StoreExistsError,
        StoreLockedError as StoreLockedError,
        StoreLostError as StoreLostError,
        StoreMismatchError as StoreMismatchError,
        StoreNotFoundError as StoreNotFoundError,
        WriteError as WriteError,
    )
    from mosaic_collect.export import ExportReport as ExportReport, export_npy as export_npy
    from mosaic_collect.export.compare import verify_export as verify_export
    from mosaic_collect.importing import ImportReport as ImportReport, import_npy as import_npy
    from mosaic_collect.look.inspect import summarize as summarize
    from mosaic_collect.look.pictures import Pictures as Pictures
    from mosaic_collect.look.report import report_page as report_page
    from mosaic_collect.passes.cluster import DaskEngine as DaskEngine
    from mosaic_collect.replay.check import replay_check as replay_check
    from mosaic_collect.replay.report import ReplayReport as ReplayReport
    from mosaic_collect.sampling.loader import BatchLoader as BatchLoader
    from mosaic_collect.simulators import run_collect as run_collect, run_trial as run_trial
    from mosaic_collect.store.copying import CopyReport as CopyReport, copy_store as copy_store
    from mosaic_collect.store.robot import Robot as Robot
    from mosaic_collect.store.schema import Field as Field, Schema as Schema
    from mosaic_collect.recording.signals import termination_as_exit as termination_as_exit
    from mosaic_collect.mosaic.student_obs import (
        StudentObsBuilder as StudentObsBuilder,
        create_student_obs_builder_from_env_cfg as create_student_obs_builder_from_env_cfg,
    )
    from mosaic_collect.reading.lazy import LazyArray as LazyArray
    from mosaic_collect.reading.ends import interrupted_ids as interrupted_ids
    from mosaic_collect.reading.summary import Summary as Summary
    from mosaic_collect.reading.trajectories import (
        Trajectories as Trajectories,
        Trajectory as Trajectory,
    )
    from mosaic_collect.reading.verify import (
        VerifyReport as VerifyReport,
        verify_store as verify_store,
    )
    from mosaic_collect.look.findings import Finding as Finding, store_findings as store_findings
    from mosaic_collect.look.measure import store_statistics as store_statistics
    from mosaic_collect.look.statistics import (
        FieldStatistics as FieldStatistics,
        StoreStatistics as StoreStatistics,
    )
    from mosaic_collect.recording.writer import (
        TrajectoryWriter as TrajectoryWriter,
        WriterStats as WriterStats,
    )

__version__ = "0.1.0"
#: Modules, and the public names of each: above, for type checkers, and here, for Python.
_NAMES = {
    "adapters.isaaclab.options": "IsaacLabCollectOptions",
    "adapters.mjlab.options": "MjlabCollectOptions",
    "adapters.rsl_rl.collect": "CollectResult",
    "collection.student": "save_student",
    "simulators": "run_collect run_trial",
    "mosaic.collector": "ExpertTrajectoryCollector",
    "reading.dataset": "TrajectoryDataset",
    "errors": "BusyError ClosedError ClusterError CorruptExportError CorruptStoreError ExportError "
    "FieldNotFoundError IncompleteStoreError InputError MissingDependencyError "
    "MosaicCollectError NewerFormatError "
    "NonFiniteError SpaceError StoreError StoreExistsError StoreLockedError StoreMismatchError "
    "StoreLostError StoreNotFoundError WriteError",
    "export": "ExportReport export_npy",
    "export.compare": "verify_export",
    "importing": "ImportReport import_npy",
    "look.inspect": "summarize",
    "reading.summary": "Summary",
    "look.pictures": "Pictures",
    "look.report": "report_page",
    "passes.cluster": "DaskEngine",
    "replay.check": "replay_check",
    "replay.report": "ReplayReport",
    "sampling.loader": "BatchLoader",
    "store.copying": "copy_store CopyReport",
    "store.robot": "Robot",
    "store.schema": "Field Schema",
    "recording.signals": "termination_as_exit",
    "mosaic.student_obs": "StudentObsBuilder create_student_obs_builder_from_env_cfg",
    "reading.lazy": "LazyArray",
    "reading.ends": "interrupted_ids",
    "reading.trajectories": "Trajectories Trajectory",
    "look.findings": "Finding store_findings",
    "look.measure": "store_statistics",
    "look.statistics": "FieldStatistics StoreStatistics",
    "reading.verify": "VerifyReport verify_store",
    "recording.writer": "TrajectoryWriter WriterStats",
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
