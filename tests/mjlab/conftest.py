"""Fixtures of tests in mjlab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.mjlab.case import Case, make_case

_ADAPTER = "mosaic_collect.adapters.mjlab.collect"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("mjlab"))


@pytest.fixture
def no_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if one is built: what can be said before must be said before."""

    def built(*args: Any, **options: Any) -> None:
        raise AssertionError("a simulator was built")

    monkeypatch.setattr(f"{_ADAPTER}.ManagerBasedRlEnv", built)


@pytest.fixture
def change_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], object]], None]:
    """Let a function change the configuration of each task that is loaded from now on."""

    def use(change: Callable[[Any], object]) -> None:
        from mosaic_collect.adapters.mjlab.collect import load_env_cfg

        def changed(*args: Any, **options: Any) -> Any:
            cfg = load_env_cfg(*args, **options)
            change(cfg)
            return cfg

        monkeypatch.setattr(f"{_ADAPTER}.load_env_cfg", changed)

    return use
