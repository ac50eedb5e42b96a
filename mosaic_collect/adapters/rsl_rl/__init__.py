"""Policies of whichever rsl_rl is installed; ``load`` finds out which, the rest is common to all.

| rsl_rl | observations | module |
| --- | --- | --- |
| 2.x, MOSAIC's fork | tuple ``(tensor, extras)`` | ``generation2`` |
| 3.x | TensorDict | ``generation3`` |
| 4.x, 5.x | TensorDict | ``generation5`` |

No module imports rsl_rl before it is used, and ``runner_cfg`` needs no torch either.
"""
