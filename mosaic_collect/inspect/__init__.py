"""Looking at stores and exports."""

from mosaic_collect.inspect.summary import FieldSummary, Summary, summarize

__all__ = ["FieldSummary", "Summary", "summarize"]
