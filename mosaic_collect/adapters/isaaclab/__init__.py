"""Collecting in Isaac Lab."""
