"""Fixtures of the file format's tests: the export's."""

from tests.export.conftest import no_power_cuts, npy

__all__ = ["no_power_cuts", "npy"]
