"""MOSAIC's file format, a dict of arrays in one pickled ``.npy``: laid out, looked into, told."""
