"""Policies of whichever rsl_rl is installed; no module imports it before it is used."""
