"""What a collection is asked of who acts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mosaic_collect.collection.acting import AS_TRAINED, Acting
from mosaic_collect.collection.motions import file_sha256
from mosaic_collect.errors import InputError


def test_by_default_as_the_policy_would_by_itself() -> None:
    assert AS_TRAINED.acting_metadata() == {}
    assert (AS_TRAINED.acts_by_mean, AS_TRAINED.student_path, AS_TRAINED.student_share) == (
        True,
        None,
        0.0,
    )


def test_what_is_told_is_what_differs() -> None:
    asked = Acting(action_noise=0.3, act_by="sample", push=0.1, start="random", seed=9)
    told = {"action_noise": 0.3, "act_by": "sample", "push": 0.1, "start": "random"}
    assert asked.acting_metadata() == told
    assert not asked.acts_by_mean
    assert Acting(seed=9).acting_metadata() == {}


def test_a_student_is_told_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    path.write_bytes(b"weights")
    asked = Acting(act_by=str(path))
    told = asked.acting_metadata()
    assert told == {
        "act_by": {"path": str(path), "sha256": file_sha256(str(path))},
        "act_share": 0.5,
    }
    assert json.loads(json.dumps(told)) == told
    assert asked.acts_by_mean
    assert Acting(act_by=str(path), act_share=1.0).student_share == 1.0
    with pytest.raises(InputError, match=r"act_by: expected mean, sample or .*none\.pt"):
        Acting(act_by=str(tmp_path / "none.pt")).acting_metadata()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"action_noise": -0.1}, "action_noise: .* from 0 on, got -0.1"),
        ({"action_noise": math.nan}, "action_noise"),
        ({"action_noise": math.inf}, "action_noise"),
        ({"push": -0.1}, "push: expected a finite number from 0 on, got -0.1"),
        ({"act_share": 0.5}, "act_share: expected only where a student acts, got 0.5"),
        ({"act_share": 0.0, "act_by": "s.pt"}, "act_share: .* above 0"),
        ({"act_share": 1.1, "act_by": "s.pt"}, "act_share: .* up to 1"),
        ({"start": "middle"}, "start: expected first or random, got 'middle'"),
        ({"start": "middle", "action_noise": -1.0}, "action_noise.*; start"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Acting(**given)
