"""The replay check on a real collection: a G1, its checkpoint, noise and normaliser."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError
from tests.adapters.hostile import Author
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, ROWS, Case, changed_expert

pytestmark = mjlab_case.MARKS


@pytest.fixture(scope="module")
def store(case: Case) -> str:
    case.run("one", passes=1, seed=3)
    return case.store("one")


def test_on_the_command_line(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", store, "--checkpoint", EXPERT]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"{sum(ROWS)} valid rows" in said
    pytest.importorskip("distributed", reason="distributed is not installed")
    assert main(["verify", store, "--checkpoint", EXPERT, "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said


def of_the_generation_before(actor: dict[str, Any]) -> None:
    actor["std"] = actor.pop("distribution.std_param")


def saved_through_torchs_wrappers(actor: dict[str, Any]) -> None:
    for name in [*actor]:
        actor[f"_orig_mod.{name}"] = actor.pop(name)


@pytest.mark.parametrize("names", [of_the_generation_before, saved_through_torchs_wrappers])
def test_a_checkpoint_with_other_names(
    store: str, case: Case, tmp_path: Any, names: Callable[..., None]
) -> None:
    """The collection reads it by mjlab's runner, so the replay must, too."""
    other = changed_expert(tmp_path / "other.pt", names)
    assert main(["verify", store, "--checkpoint", other]) == 0
    case.run(names.__name__, passes=1, seed=3, checkpoint=other)
    found, plain = (
        TrajectoryDataset(s).read("actions") for s in (case.store(names.__name__), store)
    )
    np.testing.assert_array_equal(found, plain)


def test_a_checkpoint_with_code_is_refused_before_mjlab_reads_it(
    store: str,
    case: Case,
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    mark, foreign = str(tmp_path / "ran"), str(tmp_path / "hub.pt")
    torch.save({**torch.load(EXPERT, weights_only=True), "infos": Author(mark)}, foreign)
    assert main(["verify", store, "--checkpoint", foreign]) == 2
    assert "names posix.mkdir" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"names posix\.mkdir"):
        case.run("foreign", checkpoint=foreign)
    assert not os.path.exists(mark)
    assert not os.path.exists(case.store("foreign"))
