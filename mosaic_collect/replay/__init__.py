"""The checkpoint held against the record: what it says of the recorded observations, and a picture.

``check`` and ``policy`` need torch, so they are imported by their own names.
"""

from mosaic_collect.replay.plot import plot_replay
from mosaic_collect.replay.report import TOLERANCE, check_tolerance

__all__ = ["TOLERANCE", "check_tolerance", "plot_replay"]
