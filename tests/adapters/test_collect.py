"""What is refused before any simulator is made, which takes minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mosaic_collect.adapters.rsl_rl.checkpoint import file_identity  # noqa: E402
from mosaic_collect.adapters.rsl_rl.collect import CollectResult, collect_into  # noqa: E402
from mosaic_collect.adapters.rsl_rl.options import RecordOptions  # noqa: E402
from mosaic_collect.collection.ranks import RankStore  # noqa: E402
from mosaic_collect.errors import InputError, StoreMismatchError  # noqa: E402
from mosaic_collect.simulators import run_collect  # noqa: E402
from tests import helpers  # noqa: E402


class OpenedError(Exception):
    """All that could be asked before was right."""


def open_simulation(*args: Any) -> Any:
    raise OpenedError


@pytest.fixture
def options(tmp_path: Path, store: str) -> RecordOptions:
    checkpoint = tmp_path / "model.pt"
    torch.save({"model_state_dict": {}}, checkpoint)
    return RecordOptions(task="T", checkpoint=str(checkpoint), output=store, max_steps=3)


def collected(options: RecordOptions, **changes: Any) -> CollectResult:
    options = replace(options, **changes)
    options.check()
    return collect_into(
        *(options, RankStore.of(options.output, options.distributed), open_simulation),
        simulator="none",
        runner_cfg={},
        observations={},
        limits={},
        notes={},
        found=None,
    )


def test_what_is_right_opens_it(options: RecordOptions) -> None:
    with pytest.raises(OpenedError):
        collected(options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_envs": 0}, "num_envs: expected at least 1, got 0"),
        ({"num_envs": -3}, "num_envs: expected at least 1, got -3"),
        ({"passes": 0}, "passes: expected at least 1, got 0"),
        ({"max_steps": 0, "student_history": -1}, "max_steps: .*; student_history: expected 0 or"),
        ({"buffer_mb": "much"}, "buffer_mb: expected \"auto\" or a positive number, got 'much'"),
        ({"device": "gpu"}, 'device: expected "cpu" or "cuda:0", got \'gpu\''),
        ({"device": "cuda:77"}, "device: expected cpu, or a CUDA device that torch sees, got"),
        ({"allow_changed": ["all"]}, "allow_changed: expected some of task, .*, got all"),
    ],
)
def test_what_makes_no_sense_is_refused_before(
    options: RecordOptions, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        collected(options, **changes)
    assert not Path(options.output).exists()


def test_other_environments_than_the_stores(options: RecordOptions) -> None:
    told = {"simulator": "none", "task": "T", "observations": {}, "ranks": [0, 1]}
    told["checkpoint"] = file_identity(options.checkpoint)
    helpers.open_writer(options.output, 4, metadata=told).close(complete=False)
    with pytest.raises(StoreMismatchError, match="num_envs: expected 4, got 2"):
        collected(options, resume=True, num_envs=2)
    for num_envs in (None, 4):
        with pytest.raises(OpenedError):
            collected(options, resume=True, num_envs=num_envs)


def test_options_of_no_simulator(options: RecordOptions) -> None:
    with pytest.raises(
        InputError, match=r"options: expected MjlabCollectOptions or .*, got Record"
    ):
        run_collect(options)
