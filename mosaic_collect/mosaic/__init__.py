"""MOSAIC's own two classes, drop-in."""
