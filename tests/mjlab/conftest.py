"""Fixtures of tests in mjlab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.mjlab.case import Case, make_case


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("mjlab"))


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    from mosaic_collect.adapters.mjlab.collect import run_collect

    return run_collect
