"""Numbers of bytes in words; MB and GB are 10^6 and 10^9 bytes."""

from __future__ import annotations


def size_of(nbytes: float) -> str:
    """Such as ``4.1 MB`` or ``3.20 GB``."""
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
