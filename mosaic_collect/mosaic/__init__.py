"""MOSAIC's own two classes, drop-in, and its training's expert batches."""

from mosaic_collect.mosaic.attaching import attach

__all__ = ["attach"]
