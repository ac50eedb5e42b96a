"""The public names: type checkers read them here, and so does ``__init__``."""

from mosaic_collect.adapters.isaaclab.options import (
    IsaacLabCollectOptions as IsaacLabCollectOptions,
)
from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions as MjlabCollectOptions
from mosaic_collect.adapters.rsl_rl.collect import CollectResult as CollectResult
from mosaic_collect.collection.student import save_student as save_student
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
from mosaic_collect.export import (
    ExportReport as ExportReport,
    export_npy as export_npy,
    export_store as export_store,
)
from mosaic_collect.export.compare import verify_export as verify_export
from mosaic_collect.importing import (
    ImportReport as ImportReport,
    import_file as import_file,
    import_npy as import_npy,
)
from mosaic_collect.look.findings import Finding as Finding, store_findings as store_findings
from mosaic_collect.look.inspect import summarize as summarize
from mosaic_collect.look.measure import store_statistics as store_statistics
from mosaic_collect.look.pictures import Pictures as Pictures
from mosaic_collect.look.report import report_page as report_page
from mosaic_collect.look.statistics import (
    FieldStatistics as FieldStatistics,
    StoreStatistics as StoreStatistics,
)
from mosaic_collect.mosaic.collector import (
    ExpertTrajectoryCollector as ExpertTrajectoryCollector,
)
from mosaic_collect.mosaic.student_obs import (
    StudentObsBuilder as StudentObsBuilder,
    create_student_obs_builder_from_env_cfg as create_student_obs_builder_from_env_cfg,
)
from mosaic_collect.passes.cluster import DaskEngine as DaskEngine
from mosaic_collect.reading.dataset import TrajectoryDataset as TrajectoryDataset
from mosaic_collect.reading.lazy import LazyArray as LazyArray
from mosaic_collect.reading.summary import Summary as Summary
from mosaic_collect.reading.trajectories import (
    Trajectories as Trajectories,
    Trajectory as Trajectory,
    interrupted_ids as interrupted_ids,
)
from mosaic_collect.reading.verify import (
    VerifyReport as VerifyReport,
    verify_store as verify_store,
)
from mosaic_collect.recording.signals import termination_as_exit as termination_as_exit
from mosaic_collect.recording.writer import (
    TrajectoryWriter as TrajectoryWriter,
    WriterStats as WriterStats,
)
from mosaic_collect.replay.check import replay_check as replay_check
from mosaic_collect.replay.report import ReplayReport as ReplayReport
from mosaic_collect.sampling.loader import BatchLoader as BatchLoader
from mosaic_collect.simulators import run_collect as run_collect, run_trial as run_trial
from mosaic_collect.store.copying import CopyReport as CopyReport, copy_store as copy_store
from mosaic_collect.store.robot import Robot as Robot
from mosaic_collect.store.schema import Field as Field, Schema as Schema

__version__: str
__all__: list[str]
_HOMES: dict[str, str]
