"""Collecting in mjlab."""
