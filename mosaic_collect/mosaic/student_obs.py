"""A student's observations with history, built beside the environment and never by it.

    builder = StudentObsBuilder(env, ["command", "joint_pos"], history_length=5)
    frame = builder.split(observations["policy"])      the frame that the teacher acts on
    student = builder.get_observation(frame)
    builder.update_history(frame)                      once a step
    builder.reset_history(done_env_ids)                before the next episode's first frame

frames pushed      a b c, environment reset, d      histories of three frames, of one term

oldest first       [a a a] [a a b] [a b c] [d d d]  Isaac Lab's and mjlab's own, the default:
filled by first                                     what a deployed student sees
newest first       [a 0 0] [b a 0] [c b a] [d 0 0]  as MOSAIC's builder has it
zero-filled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mosaic_collect.collection.observation_terms import group_terms, newest_frames
from mosaic_collect.errors import InputError
from mosaic_collect.recording.inputs import env_indices

POLICY = "policy"
OLDEST_FIRST, NEWEST_FIRST = "oldest_first", "newest_first"
FIRST_FRAME, ZEROS = "first_frame", "zeros"
BY_TERM, BY_TIME = "term", "time"
_DEFAULT_HISTORY = 5  # of a config name that says "history" and no number, as MOSAIC has it


class StudentObsBuilder:
    """Histories of some terms of the environment's ``policy`` group.

    A step's frame is part of ``get_observation``'s answer whether ``update_history`` was called
    with it before or will be after.

    Args:
        env: A manager-based environment, or a wrapper with ``unwrapped``.
        obs_keys: Names of the terms, in the student's order.
        history_length: Frames, the current one included; 0: the current one alone.
        device: Device of the histories; None: the environment's.
        order: ``oldest_first`` as Isaac Lab has it, or ``newest_first`` as MOSAIC's builder.
        fill: Value before the first frame after a reset: ``first_frame`` as in Isaac Lab, or
            ``zeros`` as in MOSAIC.
        history_order: ``term``, all frames of the first term, then of the next; or ``time``, all
            terms of the first frame, then of the next, as Isaac Lab 3 has it on demand.

    Attributes:
        obs_dims: Width of each term's frame.
        total_dim: Width of the observation.

    Raises:
        InputError: No such terms, or a bad argument; the message lists the terms there are.
    """

    def __init__(
        self,
        env: Any,
        obs_keys: Sequence[str],
        history_length: int = 0,
        device: Any = None,
        *,
        order: str = OLDEST_FIRST,
        fill: str = FIRST_FRAME,
        history_order: str = BY_TERM,
    ) -> None:
        env = getattr(env, "unwrapped", env)
        self.env, self.num_envs = env, int(env.num_envs)
        self.device = torch.device(env.device if device is None else device)
        self.obs_keys, self.history_length = list(obs_keys), history_length
        self._terms = group_terms(env.observation_manager, POLICY)
        self.obs_dims = _chosen({t.name: t.dim for t in self._terms}, self.obs_keys)
        # Without history a history of one frame is the same; it takes no part in any answer.
        frames = history_length or 1
        self._history = FrameHistory(
            self.num_envs, self.obs_dims, frames, self.device, order, fill, history_order
        )
        self.total_dim = sum(self.obs_dims.values()) * frames

    @property
    def history_buffers(self) -> dict[str, torch.Tensor]:
        """Per term ``(num_envs, history_length, dim)``; empty without history."""
        return self._history.buffers if self.history_length else {}

    def get_observation(self, obs_dict: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The observation of a step; stores nothing.

        Args:
            obs_dict: Per term the step's frame, ``(num_envs, dim)``.

        Returns:
            Shape ``(num_envs, total_dim)``.

        Raises:
            InputError: A term is missing or of another shape.
        """
        frames = self._frames(obs_dict)
        if not self.history_length:
            return torch.cat(list(frames.values()), dim=-1)
        return self._history.observe(frames)

    def update_history(self, obs_dict: Mapping[str, torch.Tensor]) -> None:
        """Store a step's frame; call it once a step.

        Raises:
            InputError: A term is missing or of another shape.
        """
        self._history.push(self._frames(obs_dict))

    def reset_history(self, env_ids: Any) -> None:
        """Forget the frames of these environments, before the first frame of their next episode.

        Args:
            env_ids: Whole numbers, each once, a bool mask of shape ``(num_envs,)``, or None for
                all. rsl_rl's ``dones`` are neither: pass ``dones.bool()``.

        Raises:
            InputError: Other values, such as 0/1 flags that are not bool.
        """
        if env_ids is None:
            self._history.reset(slice(None))
        elif _is_mask(env_ids, self.num_envs):  # stays on its device
            self._history.reset(env_ids.to(self.device))
        else:
            ids = env_indices(env_ids, self.num_envs)
            self._history.reset(torch.as_tensor(ids, device=self.device))

    def split(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        """The newest frame of each term within the environment's own ``policy`` observation.

        So the student's frame is the very one that the teacher acts on, its noise included.

        Args:
            observation: Shape ``(num_envs, dim)``, the concatenated group.

        Raises:
            InputError: Another width than the group's.
        """
        frames = newest_frames(self._terms, observation)
        return {key: frames[key] for key in self.obs_keys}

    def _frames(self, obs_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        missing = [key for key in self.obs_keys if key not in obs_dict]
        if missing:
            raise InputError(
                f"obs_dict: expected the terms {', '.join(self.obs_keys)}; missing are "
                f"{', '.join(missing)}"
            )
        frames = {key: obs_dict[key] for key in self.obs_keys}
        for key, frame in frames.items():
            expected = (self.num_envs, self.obs_dims[key])
            if tuple(frame.shape) != expected:
                raise InputError(f"{key}: expected shape {expected}, got {tuple(frame.shape)}")
        return frames


def create_student_obs_builder_from_env_cfg(
    env: Any, student_obs_cfg_name: str, device: Any = None, **options: Any
) -> StudentObsBuilder:
    """A builder over all terms of the ``policy`` group.

    Args:
        env: Environment, as ``StudentObsBuilder`` takes it.
        student_obs_cfg_name: ``..._history_5`` asks for five frames, ``..._history`` for five, too;
            a name without ``history`` or with ``no_history`` for none.
        device: Device of the histories, as ``StudentObsBuilder`` takes it.
        options: ``order``, ``fill`` and ``history_order``.

    Raises:
        InputError: The environment has no ``policy`` group.
    """
    manager = getattr(env, "unwrapped", env).observation_manager
    group_terms(manager, POLICY)  # says which groups there are, if not this one
    keys = list(manager.active_terms[POLICY])
    return StudentObsBuilder(env, keys, _history_in(student_obs_cfg_name), device, **options)


def _is_mask(value: Any, num_envs: int) -> bool:
    flags = isinstance(value, torch.Tensor) and value.dtype == torch.bool
    return flags and value.shape == (num_envs,)


def _chosen(dims: Mapping[str, int], keys: Sequence[str]) -> dict[str, int]:
    if not keys or len(set(keys)) != len(keys) or not set(keys) <= set(dims):
        raise InputError(
            f"obs_keys: expected different terms out of {', '.join(dims)}, got {list(keys)}"
        )
    return {key: dims[key] for key in keys}


def _history_in(name: str) -> int:
    if "history" not in name or "no_history" in name:
        return 0
    number = name.rsplit("_", 1)[-1]
    return int(number) if number.isdigit() else _DEFAULT_HISTORY


class FrameHistory:
    """Histories of several terms.

    Args:
        num_envs: Environments, N.
        dims: Width of each term's frame.
        length: Frames kept, the newest included; at least 1.
        device: Device of the frames.
        order: ``oldest_first`` or ``newest_first``.
        fill: Value before the first frame after a reset: ``first_frame`` or ``zeros``.
        history_order: ``term``, all frames of the first term, then all of the next; or ``time``.

    Attributes:
        buffers: Per term ``(num_envs, length, dim)``, in ``order``.

    Raises:
        InputError: An unknown order or fill, or a length below 1.
    """

    def __init__(
        self,
        num_envs: int,
        dims: Mapping[str, int],
        length: int,
        device: torch.device,
        order: str = OLDEST_FIRST,
        fill: str = FIRST_FRAME,
        history_order: str = BY_TERM,
    ) -> None:
        _check(length, order, fill, history_order)
        self._by_time = history_order == BY_TIME
        self._oldest_first, self._fill_first = order == OLDEST_FIRST, fill == FIRST_FRAME
        self.buffers = {
            key: torch.zeros(num_envs, length, dim, device=device) for key, dim in dims.items()
        }
        self._empty = torch.ones(num_envs, dtype=torch.bool, device=device)
        # The frames of the last push, to recognise them when they are observed afterwards.
        self._pushed: dict[str, torch.Tensor] = {}

    def push(self, frames: Mapping[str, torch.Tensor]) -> None:
        """Store one frame per term, ``(num_envs, dim)`` each; a copy."""
        self.buffers = self._with(frames)
        self._empty[:] = False
        self._pushed = dict(frames)

    def observe(self, frames: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The histories that end with these frames, pushed just now or not yet; stores nothing.

        Returns:
            Shape ``(num_envs, length * sum of dims)``.
        """
        buffers = self._with(frames)
        if self._is_pushed(frames):
            reset = self._empty[:, None, None]
            buffers = {k: torch.where(reset, b, self.buffers[k]) for k, b in buffers.items()}
        if self._by_time:
            return torch.cat(list(buffers.values()), dim=-1).flatten(start_dim=1)
        return torch.cat([b.flatten(start_dim=1) for b in buffers.values()], dim=-1)

    def reset(self, rows: Any) -> None:
        """Forget the frames of these environments: whole numbers, a bool mask, or a slice."""
        self._empty[rows] = True
        for buffer in self.buffers.values():
            buffer[rows] = 0.0

    def _with(self, frames: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: self._appended(self.buffers[key], frame) for key, frame in frames.items()}

    def _appended(self, buffer: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        newest = frame.to(buffer.device).unsqueeze(1)
        kept = buffer[:, 1:] if self._oldest_first else buffer[:, :-1]
        moved = torch.cat((kept, newest) if self._oldest_first else (newest, kept), dim=1)
        if not self._fill_first:
            return moved
        return torch.where(self._empty[:, None, None], newest, moved)

    def _is_pushed(self, frames: Mapping[str, torch.Tensor]) -> bool:
        """Whether these frames are those of the last push: the same memory with the same values.

        The memory alone does not tell, because an environment may write its next frame into it.
        Environments that were reset since are left out.
        """
        at = -1 if self._oldest_first else 0
        return bool(self._pushed) and all(
            _same_memory(frame, self._pushed[key])
            and bool((self._empty | _equal_rows(frame, self.buffers[key][:, at])).all())
            for key, frame in frames.items()
        )


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (
        (a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.data_ptr(), b.dtype, b.shape, b.stride())
    )


def _equal_rows(frame: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Rows with the same values, NaN included, ``(N,)`` bool."""
    frame = frame.to(kept)
    return ((frame == kept) | (frame.isnan() & kept.isnan())).all(dim=1)


def _check(length: int, order: str, fill: str, history_order: str) -> None:
    problems = []
    if length < 1:
        problems.append(f"history_length: expected at least 1, got {length}")
    if order not in (OLDEST_FIRST, NEWEST_FIRST):
        problems.append(f"order: expected {OLDEST_FIRST} or {NEWEST_FIRST}, got {order!r}")
    if fill not in (FIRST_FRAME, ZEROS):
        problems.append(f"fill: expected {FIRST_FRAME} or {ZEROS}, got {fill!r}")
    if history_order not in (BY_TERM, BY_TIME):
        problems.append(f"history_order: expected {BY_TERM} or {BY_TIME}, got {history_order!r}")
    if problems:
        raise InputError("; ".join(problems))
