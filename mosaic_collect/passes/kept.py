"""The last results of a function, kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """``functools.lru_cache`` that pickles, without its results.

    Args:
        function: Gives the same for the same; nobody changes what it gave.
        most: How many results to keep.
    """

    def __init__(self, function: Callable[..., T], most: int) -> None:
        self._function, self._most = function, most
        self._cached = lru_cache(most)(function)

    def __reduce__(self) -> Any:
        return Kept, (self._function, self._most)

    def __call__(self, *arguments: Any) -> T:
        """The function's result."""
        return self._cached(*arguments)
