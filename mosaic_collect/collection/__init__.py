"""A policy in a simulation, recorded."""
