"""The public names: type checkers read them here, and so does ``__init__``."""

from mosaic_collect.adapters.isaaclab.options import (
    IsaacLabCollectOptions as IsaacLabCollectOptions,
)
from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions as MjlabCollectOptions
from mosaic_collect.adapters.rsl_rl.collect import CollectResult as CollectResult
from mosaic_collect.collection.student import save_student as save_student
from mosaic_collect.errors import (
    BusyError as BusyError,
)
from mosaic_collect.errors import (
    ClosedError as ClosedError,
)
from mosaic_collect.errors import (
    ClusterError as ClusterError,
)
from mosaic_collect.errors import (
    CorruptExportError as CorruptExportError,
)
from mosaic_collect.errors import (
    CorruptStoreError as CorruptStoreError,
)
from mosaic_collect.errors import (
    ExportError as ExportError,
)
from mosaic_collect.errors import (
    FieldNotFoundError as FieldNotFoundError,
)
from mosaic_collect.errors import (
    IncompleteStoreError as IncompleteStoreError,
)
from mosaic_collect.errors import (
    InputError as InputError,
)
from mosaic_collect.errors import (
    MissingDependencyError as MissingDependencyError,
)
from mosaic_collect.errors import (
    MosaicCollectError as MosaicCollectError,
)
from mosaic_collect.errors import (
    NewerFormatError as NewerFormatError,
)
from mosaic_collect.errors import (
    NonFiniteError as NonFiniteError,
)
from mosaic_collect.errors import (
    SpaceError as SpaceError,
)
from mosaic_collect.errors import (
    StoreError as StoreError,
)
from mosaic_collect.errors import (
    StoreExistsError as StoreExistsError,
)
from mosaic_collect.errors import (
    StoreLockedError as StoreLockedError,
)
from mosaic_collect.errors import (
    StoreLostError as StoreLostError,
)
from mosaic_collect.errors import (
    StoreMismatchError as StoreMismatchError,
)
from mosaic_collect.errors import (
    StoreNotFoundError as StoreNotFoundError,
)
from mosaic_collect.errors import (
    WriteError as WriteError,
)
from mosaic_collect.export import ExportReport as ExportReport
from mosaic_collect.export import export_npy as export_npy
from mosaic_collect.export import export_store as export_store
from mosaic_collect.export.compare import verify_export as verify_export
from mosaic_collect.importing import ImportReport as ImportReport
from mosaic_collect.importing import import_npy as import_npy
from mosaic_collect.look.findings import Finding as Finding
from mosaic_collect.look.findings import store_findings as store_findings
from mosaic_collect.look.inspect import summarize as summarize
from mosaic_collect.look.measure import store_statistics as store_statistics
from mosaic_collect.look.pictures import Pictures as Pictures
from mosaic_collect.look.report import report_page as report_page
from mosaic_collect.look.statistics import (
    FieldStatistics as FieldStatistics,
)
from mosaic_collect.look.statistics import (
    StoreStatistics as StoreStatistics,
)
from mosaic_collect.mosaic.collector import (
    ExpertTrajectoryCollector as ExpertTrajectoryCollector,
)
from mosaic_collect.mosaic.student_obs import (
    StudentObsBuilder as StudentObsBuilder,
)
from mosaic_collect.mosaic.student_obs import (
    create_student_obs_builder_from_env_cfg as create_student_obs_builder_from_env_cfg,
)
from mosaic_collect.passes.cluster import DaskEngine as DaskEngine
from mosaic_collect.reading.dataset import TrajectoryDataset as TrajectoryDataset
from mosaic_collect.reading.ends import interrupted_ids as interrupted_ids
from mosaic_collect.reading.lazy import LazyArray as LazyArray
from mosaic_collect.reading.summary import Summary as Summary
from mosaic_collect.reading.trajectories import (
    Trajectories as Trajectories,
)
from mosaic_collect.reading.trajectories import (
    Trajectory as Trajectory,
)
from mosaic_collect.reading.verify import (
    VerifyReport as VerifyReport,
)
from mosaic_collect.reading.verify import (
    verify_store as verify_store,
)
from mosaic_collect.recording.signals import termination_as_exit as termination_as_exit
from mosaic_collect.recording.writer import (
    TrajectoryWriter as TrajectoryWriter,
)
from mosaic_collect.recording.writer import (
    WriterStats as WriterStats,
)
from mosaic_collect.replay.check import replay_check as replay_check
from mosaic_collect.replay.report import ReplayReport as ReplayReport
from mosaic_collect.sampling.loader import BatchLoader as BatchLoader
from mosaic_collect.simulators import run_collect as run_collect
from mosaic_collect.simulators import run_trial as run_trial
from mosaic_collect.store.copying import CopyReport as CopyReport
from mosaic_collect.store.copying import copy_store as copy_store
from mosaic_collect.store.robot import Robot as Robot
from mosaic_collect.store.schema import Field as Field
from mosaic_collect.store.schema import Schema as Schema

__version__: str
__all__: list[str]
_HOMES: dict[str, str]
