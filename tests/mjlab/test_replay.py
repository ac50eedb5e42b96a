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
from mosaic_collect.replay.check import replay_check
from tests import helpers
from tests.adapters.hostile import Author
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, ROWS, Case, changed_expert

pytestmark = mjlab_case.MARKS


@pytest.fixture(scope="module")
def store(case: Case, run: Callable[..., Any]) -> str:
    run(case.options("one", passes=1, seed=3))
    return case.store("one")


@pytest.fixture(scope="module")
def policy(store: str) -> Any:
    return load(store, EXPERT)


def load(store: str, checkpoint: str) -> Any:
    from mosaic_collect.replay.policy import recorded_policy

    return recorded_policy(TrajectoryDataset(store), checkpoint)


def altered(store: str, path: Any, observations: np.ndarray, forget: tuple[str, ...] = ()) -> str:
    """A copy of the store with other teacher observations, or without an entry of its metadata."""
    dataset = TrajectoryDataset(store)
    told = {name: entry for name, entry in dataset.metadata.items() if name not in forget}
    rows = {name: dataset.read(name) for name in dataset.schema.names}
    rows["observations"] = observations
    mask = dataset.read("valid_mask")
    copy = str(path / "altered.zarr")
    with helpers.open_writer(copy, dataset.num_envs, dataset.schema, metadata=told) as writer:
        for step in range(dataset.num_steps):
            writer.add_step(**{n: v[step] for n, v in rows.items()}, valid_mask=mask[step])
    return copy


def test_every_valid_row_says_what_was_recorded(store: str, policy: Any) -> None:
    report = replay_check(store, *policy)
    assert report.ok
    assert report.rows == sum(ROWS)
    assert report.largest_mean <= 1e-5
    assert report.largest_sigma <= 1e-5


def test_metadata_of_the_older_form(store: str, tmp_path: Any) -> None:
    """It told all that today's does, but for ranks and terms."""
    older = altered(
        store,
        tmp_path,
        TrajectoryDataset(store).read("observations"),
        forget=("ranks", "terms", "robot"),
    )
    assert sorted(TrajectoryDataset(older).metadata) == [
        *("checkpoint", "groups", "motion_counts", "motions", "observations", "passes"),
        *("runner_cfg", "seed", "simulator", "task"),
    ]
    report = replay_check(older, *load(older, EXPERT))
    assert report.ok
    assert report.rows == sum(ROWS)


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


def test_another_normaliser(store: str, tmp_path: Any) -> None:
    """As if the checkpoint had been loaded without its own."""

    def forget(actor: dict[str, Any]) -> None:
        for name, value in (("mean", 0.0), ("var", 1.0), ("std", 1.0)):
            actor[f"obs_normalizer._{name}"].fill_(value)

    other = changed_expert(tmp_path / "other.pt", forget)
    report = replay_check(store, *load(store, other))
    assert report.rows_off == report.rows


def test_a_checkpoint_without_normaliser_is_refused(store: str, tmp_path: Any) -> None:
    def drop(actor: dict[str, Any]) -> None:
        for name in [name for name in actor if "normalizer" in name]:
            del actor[name]

    other = changed_expert(tmp_path / "other.pt", drop)
    with pytest.raises(InputError, match="obs_normalizer"):
        load(store, other)


def test_a_shifted_row(store: str, policy: Any, tmp_path: Any) -> None:
    seen = TrajectoryDataset(store).read("observations")
    seen[3, 1] = seen[2, 1]
    report = replay_check(altered(store, tmp_path, seen), *policy)
    assert (report.rows_off, report.first_off) == (1, (3, 1))


def test_noise_drawn_again(store: str, policy: Any, tmp_path: Any) -> None:
    """Of a tenth of what the task adds."""
    seen = TrajectoryDataset(store).read("observations")
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, seen.shape)
    report = replay_check(altered(store, tmp_path, (seen + noise).astype(np.float32)), *policy)
    assert report.rows_off == report.rows == sum(ROWS)


def test_a_store_that_does_not_say_what_network_it_was(tmp_path: Any) -> None:
    helpers.record(str(tmp_path / "plain.zarr"), 2)
    with pytest.raises(InputError, match="has no runner_cfg"):
        load(str(tmp_path / "plain.zarr"), EXPERT)


def test_a_checkpoint_with_code_is_refused_before_mjlab_reads_it(
    store: str,
    case: Case,
    run: Callable[..., Any],
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    mark, foreign = str(tmp_path / "ran"), str(tmp_path / "hub.pt")
    torch.save({**torch.load(EXPERT, weights_only=True), "infos": Author(mark)}, foreign)
    assert main(["verify", store, "--checkpoint", foreign]) == 2
    assert "names posix.mkdir" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"names posix\.mkdir"):
        run(case.options("foreign", checkpoint=foreign))
    assert not os.path.exists(mark)
    assert not os.path.exists(case.store("foreign"))
