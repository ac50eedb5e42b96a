"""Exports of a store for those who cannot read one."""

from mosaic_collect.export.deciding import plan_export
from mosaic_collect.export.npy import export_npy
from mosaic_collect.export.options import Options
from mosaic_collect.export.plan import ExportPlan
from mosaic_collect.export.report import ExportReport

__all__ = ["ExportPlan", "ExportReport", "Options", "export_npy", "plan_export"]
