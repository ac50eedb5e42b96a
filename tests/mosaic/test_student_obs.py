"""StudentObsBuilder against plain lists, and against MOSAIC's layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from mosaic_collect.errors import InputError
from mosaic_collect.mosaic.student_obs import (
    StudentObsBuilder,
    create_student_obs_builder_from_env_cfg,
)

N = 3
DIMS = {"command": 2, "joint_pos": 3, "clock": 1}
Frame = dict[str, torch.Tensor]


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("a builder must not make the environment compute anything")


def environment(history: int = 0) -> Any:
    """An environment whose manager knows its layout and refuses to compute."""
    frames = max(1, history)
    manager = SimpleNamespace(
        active_terms={"policy": list(DIMS), "critic": ["state"]},
        group_obs_term_dim={"policy": [(d * frames,) for d in DIMS.values()], "critic": [(9,)]},
        _group_obs_term_cfgs={
            "policy": [SimpleNamespace(history_length=history, func=forbidden) for _ in DIMS],
            "critic": [SimpleNamespace(history_length=0, func=forbidden)],
        },
        compute=forbidden,
        compute_group=forbidden,
    )
    return SimpleNamespace(num_envs=N, device="cpu", observation_manager=manager)


def frame(step: int) -> Frame:
    """Values that tell step, environment, term and column."""
    return {
        key: torch.tensor(
            [[1000 * step + 100 * e + 10 * t + c for c in range(d)] for e in range(N)],
            dtype=torch.float32,
        )
        for t, (key, d) in enumerate(DIMS.items())
    }


def listed(frames: list[Frame], env: int, length: int, order: str) -> torch.Tensor:
    """What one environment's observation is, from all frames of its episode."""
    parts = []
    for key, dim in DIMS.items():
        seen = [f[key][env] for f in frames][-length:]
        first = torch.zeros(dim) if order == "mosaic" else seen[0]
        seen = [first] * (length - len(seen)) + seen
        parts.append(seen[::-1] if order == "mosaic" else seen)
    by_time = [list(frames) for frames in zip(*parts, strict=True)]
    return torch.cat([f for frames in (by_time if order == "time" else parts) for f in frames])


@given(
    resets=st.lists(st.sets(st.integers(0, N - 1)), min_size=1, max_size=12),
    length=st.integers(1, 5),
    order=st.sampled_from(["term", "time", "mosaic"]),
    update_first=st.booleans(),
    diverged=st.sets(st.tuples(st.integers(0, 11), st.integers(0, N - 1))),
)
def test_histories_are_those_of_plain_lists(
    resets: list[set[int]],
    length: int,
    order: str,
    update_first: bool,
    diverged: set[tuple[int, int]],
) -> None:
    builder = StudentObsBuilder(environment(), list(DIMS), length, history_order=order)
    episodes: list[list[Frame]] = [[] for _ in range(N)]
    for step, ended in enumerate(resets):
        now = frame(step)
        for env in (env for at, env in diverged if at == step):
            now["joint_pos"][env, 1] = torch.nan
        for episode in episodes:
            episode.append(now)
        if update_first:
            builder.update_history(now)
        observation = builder.get_observation(now)
        if not update_first:
            builder.update_history(now)
        expected = [listed(episodes[e], e, length, order) for e in range(N)]
        torch.testing.assert_close(
            observation, torch.stack(expected), rtol=0, atol=0, equal_nan=True
        )
        builder.reset_history(sorted(ended))
        for env in ended:
            episodes[env] = []


def test_a_buffer_that_is_used_again_holds_the_next_frame() -> None:
    builder = StudentObsBuilder(environment(), ["clock"], 3)
    buffer = {"clock": torch.zeros(N, 1)}
    for step, expected in ((1.0, [1.0, 1.0, 1.0]), (2.0, [1.0, 1.0, 2.0]), (3.0, [1.0, 2.0, 3.0])):
        buffer["clock"].fill_(step)
        assert builder.get_observation(buffer)[0].tolist() == expected
        builder.update_history(buffer)
    assert builder.history_buffers["clock"][0, :, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_frame_that_is_split_twice_is_one_frame() -> None:
    builder = StudentObsBuilder(environment(), ["clock", "command"], 3)
    for step in range(3):
        observation = torch.cat([frame(step)[key] for key in DIMS], dim=1)
        builder.update_history(builder.split(observation))
        seen = builder.get_observation(builder.split(observation))
    assert seen[0, :3].tolist() == [20.0, 1020.0, 2020.0]


def test_a_reset_behind_the_update_leaves_the_others_as_they_are() -> None:
    builder = StudentObsBuilder(environment(), ["clock"], 3)
    for step in range(3):
        now = frame(step)
        builder.update_history(now)
    builder.reset_history([1])
    assert builder.get_observation(now).tolist() == [
        [20.0, 1020.0, 2020.0],
        [2120.0, 2120.0, 2120.0],
        [220.0, 1220.0, 2220.0],
    ]


@pytest.mark.parametrize(
    ("options", "seen"),
    [({}, [[1, 1, 2], [1, 1, 1]]), ({"history_order": "mosaic"}, [[2, 1, 0], [1, 0, 0]])],
)
def test_isaac_labs_layout_unless_mosaics_is_asked_for(options: Any, seen: Any) -> None:
    builder = StudentObsBuilder(environment(), ["clock"], 3, **options)
    builder.update_history({"clock": torch.ones(N, 1)})
    now = builder.get_observation({"clock": 2 * torch.ones(N, 1)})
    assert [now[0].tolist(), builder.history_buffers["clock"][0, :, 0].tolist()] == seen


def test_upstreams_names_and_shapes() -> None:
    names = ["joint_pos", "command"]
    builder = StudentObsBuilder(env=environment(), obs_keys=names, history_length=5, device="cpu")
    assert (builder.obs_keys, builder.num_envs, builder.history_length) == (names, N, 5)
    assert builder.obs_dims == {"joint_pos": 3, "command": 2}
    assert builder.total_dim == 25
    assert {k: tuple(b.shape) for k, b in builder.history_buffers.items()} == {
        "joint_pos": (N, 5, 3),
        "command": (N, 5, 2),
    }
    assert builder.get_observation(frame(1)).shape == (N, 25)


def test_without_history_the_frame_alone_in_the_students_order() -> None:
    builder = StudentObsBuilder(environment(), ["joint_pos", "command"])
    now = frame(4)
    builder.update_history(frame(3))
    assert torch.equal(
        builder.get_observation(now), torch.cat([now["joint_pos"], now["command"]], dim=-1)
    )
    assert builder.history_buffers == {}
    assert builder.total_dim == 5


@pytest.mark.parametrize(
    ("env_ids", "reset"),
    [
        ([1], {1}),
        (torch.tensor([1]), {1}),
        (torch.tensor([False, True, False]), {1}),
        ([], set()),
        (torch.zeros(0, dtype=torch.long), set()),
        (None, {0, 1, 2}),
    ],
)
def test_a_reset_by_numbers_or_mask_or_of_all(env_ids: Any, reset: set[int]) -> None:
    builder = StudentObsBuilder(environment(), ["clock"], 2)
    builder.update_history(frame(1))
    builder.reset_history(env_ids)
    before = [0.0 if env in reset else 1020.0 + 100 * env for env in range(N)]
    assert builder.history_buffers["clock"][:, -1, 0].tolist() == before
    seen = builder.get_observation(frame(2))[:, 0].tolist()
    assert seen == [2020.0 + 100 * env if env in reset else before[env] for env in range(N)]


@pytest.mark.parametrize(
    ("env_ids", "words"),
    [
        (torch.tensor([0, 0, 1]), "flags of all environments must be bool"),  # rsl_rl's dones
        (torch.tensor([0.0, 0.0, 1.0]), "expected whole numbers or a bool mask"),
        (torch.tensor([True]), r"expected a mask of shape \(3,\)"),
        ([3], r"expected 0\.\.2"),
        ([-1], r"expected 0\.\.2"),
    ],
)
def test_a_reset_of_what_is_neither_is_refused(env_ids: Any, words: str) -> None:
    builder = StudentObsBuilder(environment(), ["clock"], 2)
    builder.update_history(frame(1))
    with pytest.raises(InputError, match=words):
        builder.reset_history(env_ids)
    assert builder.get_observation(frame(2))[:, 0].tolist() == [1020.0, 1120.0, 1220.0]


@pytest.mark.parametrize("history", [0, 4])
def test_split_takes_the_newest_frames_out_of_the_acted_observation(history: int) -> None:
    builder = StudentObsBuilder(environment(history), ["clock", "command"], 2)
    frames = [frame(s) for s in range(max(1, history))]
    acted = torch.cat([f[key] for key in DIMS for f in frames], dim=-1)
    parts = builder.split(acted)
    assert list(parts) == ["clock", "command"]
    assert all(torch.equal(parts[key], frames[-1][key]) for key in parts)
    with pytest.raises(InputError, match="observation: expected"):
        builder.split(acted[:, 1:])


def test_wrong_arguments_say_what_there_is() -> None:
    with pytest.raises(InputError, match="command, joint_pos, clock"):
        StudentObsBuilder(environment(), ["command", "wheel"])
    with pytest.raises(InputError, match="obs_keys"):
        StudentObsBuilder(environment(), ["command", "command"])
    with pytest.raises(InputError, match="obs_keys"):
        StudentObsBuilder(environment(), [])
    with pytest.raises(InputError, match="history_length: expected a whole number from 0"):
        StudentObsBuilder(environment(), ["clock"], -1)
    with pytest.raises(InputError, match="expected term, time or mosaic, got 'up'"):
        StudentObsBuilder(environment(), ["clock"], 1, history_order="up")
    builder = StudentObsBuilder(environment(), ["clock", "command"], 2)
    with pytest.raises(InputError, match="missing are command"):
        builder.get_observation({"clock": torch.zeros(N, 1)})
    with pytest.raises(InputError, match=r"clock: expected shape \(3, 1\), got \(3, 2\)"):
        builder.update_history({"clock": torch.zeros(N, 2), "command": torch.zeros(N, 2)})


@pytest.mark.parametrize(
    ("name", "length"),
    [("policy_no_history", 0), ("policy", 0), ("policy_history_7", 7), ("policy_history", 5)],
)
def test_a_builder_by_config_name(name: str, length: int) -> None:
    wrapped = SimpleNamespace(unwrapped=environment())
    builder = create_student_obs_builder_from_env_cfg(wrapped, name, "cpu")
    assert builder.obs_keys == list(DIMS)
    assert builder.history_length == length


def test_no_policy_group_is_an_error_and_no_none() -> None:
    env = environment()
    del env.observation_manager.active_terms["policy"]
    with pytest.raises(InputError, match="expected the observation group 'policy', got critic"):
        create_student_obs_builder_from_env_cfg(env, "policy_history_5")
