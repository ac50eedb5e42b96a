"""What the values of a store are like, feature by feature."""

from mosaic_collect.stats.measures import FieldStatistics, StoreStatistics
from mosaic_collect.stats.scan import store_statistics

__all__ = ["FieldStatistics", "StoreStatistics", "store_statistics"]
