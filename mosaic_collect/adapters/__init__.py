"""Simulators and policies behind two small protocols; one module for each API generation.

Nothing here is imported by the core, and no module imports a simulator or rsl_rl before it is used.
"""
