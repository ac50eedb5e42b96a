"""The replay check on a real collection: a G1, its checkpoint, noise and normaliser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mosaic_collect.cli import main
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, ROWS, Case, changed_expert

pytestmark = mjlab_case.MARKS


@pytest.fixture(scope="module")
def store(case: Case, run: Callable[..., Any]) -> str:
    run(case.options("one", passes=1, seed=3))
    return case.store("one")


def test_on_the_command_line(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", store, "--checkpoint", EXPERT]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"{sum(ROWS)} valid rows" in said
    pytest.importorskip("distributed", reason="distributed is not installed")
    assert main(["verify", store, "--checkpoint", EXPERT, "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_another_checkpoint_on_the_command_line(
    store: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed_expert(tmp_path / "other.pt", lambda actor: actor["mlp.0.weight"].add_(1e-3))
    assert main(["verify", store, "--checkpoint", other]) == 1
    assert "ROWS OFF" in capsys.readouterr().out
    assert main(["verify", store, "--checkpoint", str(tmp_path / "none.pt")]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_a_checkpoint_of_the_generation_before(store: str, tmp_path: Any) -> None:
    """The collection reads it by mjlab's runner, so the replay must, too."""
    older = changed_expert(
        tmp_path / "older.pt",
        lambda actor: actor.update(std=actor.pop("distribution.std_param")),
    )
    assert main(["verify", store, "--checkpoint", older]) == 0
