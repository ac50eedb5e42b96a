"""Files of other recorders as stores."""

from mosaic_collect.importing.npy import ImportReport, import_npy

__all__ = ["ImportReport", "import_npy"]
