"""A student's observations with history, built beside the environment and never by it.

    builder = StudentObsBuilder(env, ["command", "joint_pos"], history_length=5)
    frame = builder.split(observations["policy"])      the frame that the teacher acts on
    student = builder.get_observation(frame)
    builder.update_history(frame)                      once a step
    builder.reset_history(done_env_ids)                before the next episode's first frame

frames pushed      a b c, environment reset, d      histories of three frames, of one term

term, time         [a a a] [a a b] [a b c] [d d d]  Isaac Lab's and mjlab's own, which a deployed
                                                    student sees
mosaic             [a 0 0] [b a 0] [c b a] [d 0 0]  MOSAIC's builder: newest first, zero-filled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mosaic_collect.checks import whole
from mosaic_collect.collection.observation_terms import group_terms
from mosaic_collect.errors import InputError
from mosaic_collect.recording.inputs import env_indices

POLICY = "policy"
TERM, TIME, MOSAIC = "term", "time", "mosaic"
_DEFAULT_HISTORY = 5  # of a config name that says "history" and no number, as MOSAIC has it
_Frames = Mapping[str, torch.Tensor]


class StudentObsBuilder:
    """Histories of some terms of the environment's ``policy`` group.

    A step's frame is part of ``get_observation``'s answer whether ``update_history`` was called
    with it before or will be after.

    Args:
        env: A manager-based environment, or a wrapper with ``unwrapped``.
        obs_keys: Names of the terms, in the student's order.
        history_length: Frames, the current one included; 0: the current one alone.
        device: Device of the histories; None: the environment's.
        history_order: ``term``, all frames of the first term, then of the next, or ``time``, all
            terms of the first frame, then of the next, as Isaac Lab has them; ``mosaic``: as
            ``term``, but each term's newest frame first, and zeros before the first frame.

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
        history_order: str = TERM,
    ) -> None:
        env = getattr(env, "unwrapped", env)
        self.env, self.num_envs = env, int(env.num_envs)
        self.device = torch.device(env.device if device is None else device)
        self.obs_keys = list(obs_keys)
        self.history_length = whole(history_length, "history_length", 0)
        if history_order not in (TERM, TIME, MOSAIC):
            expected = f"{TERM}, {TIME} or {MOSAIC}"
            raise InputError(f"history_order: expected {expected}, got {history_order!r}")
        self._order = history_order
        terms = group_terms(env.observation_manager, POLICY)
        self._terms = {term.name: term for term in terms}
        keys = set(self.obs_keys)
        if not keys or len(keys) != len(self.obs_keys) or not keys <= set(self._terms):
            raise InputError(
                f"obs_keys: expected different terms out of {', '.join(self._terms)}, got "
                f"{self.obs_keys}"
            )
        self._width = terms[-1].stop
        self.obs_dims = {key: self._terms[key].dim for key in self.obs_keys}
        # Without history one frame is kept, which takes no part in any answer.
        frames = self.history_length or 1
        self.total_dim = sum(self.obs_dims.values()) * frames
        #: Per term ``(N, frames, dim)``, the oldest frame first.
        self._kept = {
            key: torch.zeros(self.num_envs, frames, dim, device=self.device)
            for key, dim in self.obs_dims.items()
        }
        self._is_reset = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        # The frames of the last update, to recognise them when they are observed afterwards.
        self._pushed: _Frames = {}

    @property
    def history_buffers(self) -> dict[str, torch.Tensor]:
        """Per term ``(num_envs, history_length, dim)``; empty without history."""
        return self._ordered(self._kept) if self.history_length else {}

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
        histories = self._with(frames)
        if self._is_pushed(frames):
            reset = self._is_reset[:, None, None]
            histories = {k: torch.where(reset, h, self._kept[k]) for k, h in histories.items()}
        ordered = list(self._ordered(histories).values())
        if self._order == TIME:
            return torch.cat(ordered, dim=-1).flatten(start_dim=1)
        return torch.cat([history.flatten(start_dim=1) for history in ordered], dim=-1)

    def update_history(self, obs_dict: Mapping[str, torch.Tensor]) -> None:
        """Store a step's frame; call it once a step.

        Raises:
            InputError: A term is missing or of another shape.
        """
        self._pushed = self._frames(obs_dict)
        self._kept = self._with(self._pushed)
        self._is_reset[:] = False

    def reset_history(self, env_ids: Any) -> None:
        """Forget the frames of these environments, before the first frame of their next episode.

        Args:
            env_ids: Whole numbers, each once, a bool mask of shape ``(num_envs,)``, or None for
                all. rsl_rl's ``dones`` are neither: pass ``dones.bool()``.

        Raises:
            InputError: Other values, such as 0/1 flags that are not bool.
        """
        rows: Any = slice(None)
        is_mask = isinstance(env_ids, torch.Tensor) and env_ids.dtype == torch.bool
        if is_mask and env_ids.shape == (self.num_envs,):
            rows = env_ids.to(self.device)  # without a copy to the host
        elif env_ids is not None:
            rows = torch.as_tensor(env_indices(env_ids, self.num_envs), device=self.device)
        self._is_reset[rows] = True
        for kept in self._kept.values():
            kept[rows] = 0.0

    def split(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        """The newest frame of each term within the environment's own ``policy`` observation.

        So the student's frame is the very one that the teacher acts on, its noise included.

        Args:
            observation: Shape ``(num_envs, dim)``, the concatenated group.

        Raises:
            InputError: Another width than the group's.
        """
        if observation.ndim != 2 or observation.shape[1] != self._width:
            raise InputError(
                f"observation: expected (num_envs, {self._width}), got {tuple(observation.shape)}"
            )
        return {key: observation[:, self._terms[key].newest] for key in self.obs_keys}

    def _frames(self, obs_dict: Mapping[str, torch.Tensor]) -> _Frames:
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

    def _ordered(self, histories: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        is_newest_first = self._order == MOSAIC
        return {k: h.flip(1) if is_newest_first else h for k, h in histories.items()}

    def _with(self, frames: _Frames) -> dict[str, torch.Tensor]:
        """Histories that end with these frames."""
        histories, is_first = {}, self._is_reset[:, None, None]
        for key, frame in frames.items():
            newest = frame.to(self.device).unsqueeze(1)
            moved = torch.cat((self._kept[key][:, 1:], newest), dim=1)
            filled = moved if self._order == MOSAIC else torch.where(is_first, newest, moved)
            histories[key] = filled
        return histories

    def _is_pushed(self, frames: _Frames) -> bool:
        """Whether these frames are those of the last update: the same memory and values.

        The memory alone does not tell, because an environment may write its next frame into it.
        Environments that were reset since are left out.
        """
        return bool(self._pushed) and all(
            _is_same_memory(frame, self._pushed[key])
            and bool((self._is_reset | _equal_rows(frame, self._kept[key][:, -1])).all())
            for key, frame in frames.items()
        )


def create_student_obs_builder_from_env_cfg(
    env: Any, student_obs_cfg_name: str, device: Any = None, **options: Any
) -> StudentObsBuilder:
    """A builder over all terms of the ``policy`` group.

    Args:
        env: Environment, as ``StudentObsBuilder`` takes it.
        student_obs_cfg_name: ``..._history_5`` asks for five frames, ``..._history`` for five, too;
            a name without ``history`` or with ``no_history`` for none.
        device: Device of the histories, as ``StudentObsBuilder`` takes it.
        options: ``history_order``.

    Raises:
        InputError: The environment has no ``policy`` group.
    """
    manager = getattr(env, "unwrapped", env).observation_manager
    group_terms(manager, POLICY)  # says which groups there are, if not this one
    length, name = 0, student_obs_cfg_name
    if "history" in name and "no_history" not in name:
        number = name.rsplit("_", 1)[-1]
        length = int(number) if number.isdigit() else _DEFAULT_HISTORY
    return StudentObsBuilder(env, manager.active_terms[POLICY], length, device, **options)


def _is_same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (
        (a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.data_ptr(), b.dtype, b.shape, b.stride())
    )


def _equal_rows(frame: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Rows with the same values, NaN included, ``(N,)`` bool."""
    frame = frame.to(kept)
    return ((frame == kept) | (frame.isnan() & kept.isnan())).all(dim=1)
