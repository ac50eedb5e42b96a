"""Policies of whichever rsl_rl is installed; ``load`` recognises which.

| rsl_rl | observations | class in ``load`` |
| --- | --- | --- |
| 2.x, MOSAIC's fork | tuple ``(tensor, extras)`` | ``RslRl2`` |
| 3.x | TensorDict | ``RslRl3`` |
| 4.x, 5.x | TensorDict | ``RslRl5`` |

No module imports rsl_rl before it is used, and ``runner_cfg`` needs no torch either.
"""
