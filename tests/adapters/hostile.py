"""Files that run their author's code when they are unpickled, and what tells that it ran."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


class Author:
    """Pickled as a call that makes a folder."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.mark,)
