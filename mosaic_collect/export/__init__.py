"""Exports of a store for those who cannot read one."""

from mosaic_collect.export.npy import export_npy, plan_export
from mosaic_collect.export.plan import ExportPlan, ExportReport, Options, export
from mosaic_collect.export.store import export_store

__all__ = [
    "ExportPlan",
    "ExportReport",
    "Options",
    "export",
    "export_npy",
    "export_store",
    "plan_export",
]
