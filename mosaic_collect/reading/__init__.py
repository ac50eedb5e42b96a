"""Committed rows to arrays."""
