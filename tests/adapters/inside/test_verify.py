"""``mosaic-collect verify --checkpoint`` beside the installed rsl_rl: what it must find."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_collect import TrajectoryDataset, TrajectoryWriter
from mosaic_collect.adapters.rsl_rl.runner_cfg import json_safe
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError
from mosaic_collect.replay.policy import recorded_policy
from tests import helpers
from tests.adapters.inside.toy import ENVS, GENERATION, STEPS, config, record, train

Verify = Callable[..., tuple[int, str]]
VALID = STEPS * ENVS


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Exit code and what was said, of which errors are one line."""

    def run(store: str, checkpoint: str, *options: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["verify", store, "--checkpoint", checkpoint, *options])
        out, err = capsys.readouterr()
        assert err.count("\n") == (1 if code == 2 else 0), err
        return code, out + err

    return run


@pytest.fixture(scope="module")
def recorded(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``(store, checkpoint, recurrent)`` of a collection without fault."""
    _, checkpoint, recurrent = trained
    store = str(tmp_path_factory.mktemp("recorded") / "expert.zarr")
    record(store, checkpoint, config(recurrent))
    return store, checkpoint, recurrent


@pytest.fixture
def untold(trained: Any, tmp_path: Path) -> Any:
    """``(store, checkpoint, recurrent)`` of a store that does not say its network."""
    _, checkpoint, recurrent = trained
    store = str(tmp_path / "untold.zarr")
    record(store, checkpoint, config(recurrent), noted={})
    without_groups(store)
    return store, checkpoint, recurrent


def without_groups(store: str) -> None:
    """The store does not say its observation groups any more."""
    with TrajectoryWriter(store, resume=True) as writer:
        writer.update_metadata(groups=None)


@pytest.fixture
def verify_with(untold: Any, tmp_path: Path, verify: Verify) -> Verify:
    """``verify`` of the store that does not say its network, by a config in a file."""

    def run(told: Any, *options: str, ending: str = "json") -> tuple[int, str]:
        path = tmp_path / f"agent.{ending}"
        path.write_text(told if isinstance(told, str) else json.dumps(told))
        return verify(*untold[:2], "--runner-cfg", str(path), *options)

    return run


@pytest.fixture
def verify_about(trained: Any, tmp_path: Path, verify: Verify) -> Verify:
    """``verify`` of a new store with this training config in its metadata."""
    _, checkpoint, recurrent = trained

    def run(told: Any) -> tuple[int, str]:
        store = str(tmp_path / f"{len(os.listdir(tmp_path))}.zarr")
        record(store, checkpoint, config(recurrent), noted={"runner_cfg": json_safe(told)})
        return verify(store, checkpoint)

    return run


def check_refused(answer: tuple[int, str], words: str) -> None:
    assert answer[0] == 2
    assert words in answer[1]


def off(said: str) -> int:
    """How many rows, of all valid ones."""
    found = re.search(rf"(\d+) OF {VALID} valid ROWS OFF", said)
    assert found, said
    return int(found[1])


def test_a_right_store_is_right(recorded: Any, verify: Verify) -> None:
    store, checkpoint, _ = recorded
    code, said = verify(store, checkpoint)
    assert code == 0
    assert f"{checkpoint}: ok, {VALID} valid rows" in said
    assert "of mean 0.0e+00" in said


def test_a_fault_of_the_record_is_found(recorded: Any, verify: Verify) -> None:
    """The row of a step before; a recurrent policy remembers it to the end of its trajectory."""

    def alter(rows: dict[str, np.ndarray]) -> None:
        rows["observations"][9, 2] = rows["observations"][8, 2]

    store, checkpoint, recurrent = recorded
    ids = helpers.ids(TrajectoryDataset(store))[9:, 2]
    wrong = np.count_nonzero(ids == ids[0]) if recurrent else 1
    assert wrong > recurrent
    code, said = verify(helpers.altered(store, alter), checkpoint)
    assert (code, off(said)) == (1, wrong)
    assert "the first at step 9, env 2" in said


def test_another_checkpoint_is_found(recorded: Any, tmp_path: Path, verify: Verify) -> None:
    store, _, recurrent = recorded
    other = str(tmp_path / "other.pt")
    train(other, recurrent, seed=1)
    code, said = verify(store, other)
    assert (code, off(said)) == (1, VALID)


def sigma(name: str, value: torch.Tensor) -> torch.Tensor:
    return value + 1e-4 if name in ("std", "std_param") else value


def normaliser(name: str, value: torch.Tensor) -> torch.Tensor:
    """As of one that learned nothing."""
    neutral = {"_mean": torch.zeros_like, "_var": torch.ones_like, "_std": torch.ones_like}
    return neutral.get(name, lambda v: v)(value)


@pytest.mark.parametrize("change", [sigma, normaliser])
def test_one_that_differs_in_nothing_else_is_found(
    recorded: Any, tmp_path: Path, verify: Verify, change: Callable[..., torch.Tensor]
) -> None:
    store, checkpoint, _ = recorded
    other = altered(checkpoint, tmp_path, change)
    code, said = verify(store, other)
    assert (code, off(said)) == (1, VALID)
    if change is sigma:
        assert "of mean 0.0e+00" in said
        assert verify(store, other, "--tolerance", "1e-3")[0] == 0


def altered(
    checkpoint: str, folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]
) -> str:
    """A copy of the checkpoint with other values in its state dicts."""
    content = torch.load(checkpoint, weights_only=False)
    for name, state in content.items():
        if name.endswith("state_dict") and "optimizer" not in name:
            content[name] = {k: change(k.rpartition(".")[2], v) for k, v in state.items()}
    other = str(folder / "altered.pt")
    torch.save(content, other)
    return other


def test_a_store_that_does_not_say_its_network(untold: Any, verify: Verify) -> None:
    answer = verify(*untold[:2])
    check_refused(answer, "has no runner_cfg")
    check_refused(answer, "--runner-cfg agent.yaml")


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize("groups", [(), ("--groups", "policy=6")])
def test_a_network_that_is_told(
    untold: Any, verify_with: Verify, ending: str, groups: tuple[str, ...]
) -> None:
    told: Any = config(untold[2])
    if ending == "yaml":
        told = pytest.importorskip("yaml").dump({**told, "betas": (0.9, 0.99)})
    code, said = verify_with(told, *groups, ending=ending)
    assert code == 0, said
    assert f"ok, {VALID} valid rows" in said


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["policy=5"], "add up to 6"),
        (["actor=6"], "expected policy, which the actor reads, got actor"),
        (["policy=3", "critic=3"], "expected policy, which the actor reads, got policy, critic"),
    ],
)
def test_groups_that_do_not_fit(
    untold: Any, verify_with: Verify, groups: list[str], words: str
) -> None:
    check_refused(verify_with(config(untold[2]), "--groups", *groups), words)


@pytest.mark.parametrize("width", [0, "6", True])
def test_a_width_that_is_none(untold: Any, width: Any) -> None:
    store, checkpoint, recurrent = untold
    dataset, told = TrajectoryDataset(store), json_safe(config(recurrent))
    with pytest.raises(InputError, match="groups: policy: expected a whole number from 1"):
        recorded_policy(dataset, checkpoint, runner_cfg=told, groups={"policy": width})


def test_a_config_that_this_rsl_rl_cannot_build(untold: Any, verify_with: Verify) -> None:
    """Such as one with MOSAIC's own policies, which its fork alone has."""
    told = config(untold[2])
    told["actor" if GENERATION == 5 else "policy"]["class_name"] = "ActorCriticFSQ"
    check_refused(verify_with(told), "ActorCriticFSQ")


@pytest.mark.parametrize(
    "algorithm",
    [
        {"rnd_cfg": {"weight": 1.0}, "symmetry_cfg": {"data_augmentation_func": "gone:mirror"}},
        {"class_name": "MOSAIC", "expert_trajectory_path": "gone.npy", "hybrid": False},
    ],
)
def test_what_only_training_needs_is_left_out(
    trained: Any, verify_about: Verify, algorithm: dict[str, Any]
) -> None:
    """A replay has neither simulator nor the files of teachers and experts."""
    told = config(trained[2])
    told["algorithm"].update(algorithm)
    code, said = verify_about(told)
    assert code == 0, said


def test_an_actor_that_sees_an_estimate_is_refused(trained: Any, verify_about: Verify) -> None:
    algorithm = {"class_name": "MOSAIC", "use_estimate_ref_vel": True}
    answer = verify_about({**config(trained[2]), "algorithm": algorithm})
    check_refused(answer, "use_estimate_ref_vel")


@pytest.mark.skipif(GENERATION == 2, reason="2.x has no obs_groups")
def test_a_critic_may_see_what_the_store_does_not_know(trained: Any, verify_about: Verify) -> None:
    told = config(trained[2])
    told["obs_groups"]["critic"] = ["policy", "critic", "privileged"]
    assert verify_about(told)[0] == 0


@pytest.mark.skipif(GENERATION == 2, reason="2.x has no obs_groups")
def test_an_actor_of_two_groups(trained: Any, tmp_path: Path, verify: Verify) -> None:
    _, _, recurrent = trained
    checkpoint, store = str(tmp_path / "model.pt"), str(tmp_path / "expert.zarr")
    groups = {"actor_groups": ("critic", "policy")}
    train(checkpoint, recurrent, **groups)
    record(store, checkpoint, json_safe(config(recurrent, **groups)))
    without_groups(store)
    check_refused(verify(store, checkpoint), "--groups critic=WIDTH policy=WIDTH")
    assert verify(store, checkpoint, "--groups", "critic=12", "policy=6")[0] == 0
    code, said = verify(store, checkpoint, "--groups", "policy=6", "critic=12")
    assert code == 1
    assert off(said) == VALID


@pytest.mark.parametrize("obs_groups", [["policy"], "policy", 3, {"actor": 3}, {"actor": [[]]}])
def test_groups_of_no_set_are_refused(untold: Any, verify_with: Verify, obs_groups: Any) -> None:
    answer = verify_with({**config(untold[2]), "obs_groups": obs_groups})
    check_refused(answer, "expected obs_groups with lists by name")


#: Sixty lines of YAML that are, written out, 2 ** 60 values.
OFTEN = "x0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 61))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{OFTEN}obs_groups: *x60", "expected obs_groups with lists by name, got [[[["),
        (f"{OFTEN}obs_groups: {{actor: *x60}}", "expected obs_groups with lists by name"),
        (f"{OFTEN}actor: {{class_name: *x60}}", "actor.class_name names [[[["),
        (f"a: {'[' * 200}{']' * 200}", "expected at most 64 levels"),
    ],
    ids=["sets", "a set", "a name", "levels"],
)
def test_yaml_without_end_is_refused(verify_with: Verify, text: str, words: str) -> None:
    pytest.importorskip("yaml")
    check_refused(verify_with(text, ending="yaml"), words)


@pytest.mark.parametrize("device", ["cuda:77", "nowhere"])
def test_a_device_that_is_not_here(recorded: Any, verify: Verify, device: str) -> None:
    store, checkpoint, _ = recorded
    code, said = verify(store, checkpoint, "--device", device)
    assert code == 2
    assert f"device: expected one that is here, got {device}" in said


def test_a_picture(recorded: Any, tmp_path: Path, verify: Verify) -> None:
    store, checkpoint, _ = recorded
    picture = str(tmp_path / "replay.svg")
    code, said = verify(store, checkpoint, "--plot", picture)
    assert code == 0
    assert f"{picture}: drawn" in said
    assert os.path.getsize(picture) > 1000
