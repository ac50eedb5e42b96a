"""Exports of a store for those who cannot read one."""

from mosaic_collect.export.npy import ExportReport, export_npy

__all__ = ["ExportReport", "export_npy"]
