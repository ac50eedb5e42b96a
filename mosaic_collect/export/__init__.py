"""Exports of a store for those who cannot read one."""

from mosaic_collect.export.formats import export
from mosaic_collect.export.npy import ExportPlan, ExportReport, export_npy, plan_export
from mosaic_collect.export.options import Options

__all__ = ["ExportPlan", "ExportReport", "Options", "export", "export_npy", "plan_export"]
