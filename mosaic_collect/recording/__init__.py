"""Steps to commits."""
