"""A student's observations with history, built beside the environment and never by it.

builder = StudentObsBuilder(env, ["command", "joint_pos"], history_length=5)
frame = builder.split(observations["policy"])      the frame that the teacher acts on
student = builder.get_observation(frame)
builder.update_history(frame)                      once a step
builder.reset_history(done_env_ids)                before the next episode's first frame
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mosaic_collect.collection.observation_terms import group_terms, newest_frames
from mosaic_collect.errors import InputError
from mosaic_collect.mosaic.history import BY_TERM, FIRST_FRAME, OLDEST_FIRST, FrameHistory
from mosaic_collect.recording.inputs import env_indices

POLICY = "policy"
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
