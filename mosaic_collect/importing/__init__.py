"""Files of other recorders as stores."""

from mosaic_collect.importing.formats import import_file
from mosaic_collect.importing.npy import import_npy
from mosaic_collect.importing.source import ImportReport

__all__ = ["ImportReport", "import_file", "import_npy"]
