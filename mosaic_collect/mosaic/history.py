"""The last frames of each environment, term by term.

frames pushed      a b c, environment reset, d      histories of three frames, of one term

oldest first       [a a a] [a a b] [a b c] [d d d]  Isaac Lab's and mjlab's own, the default:
filled by first                                     what a deployed student sees
newest first       [a 0 0] [b a 0] [c b a] [d 0 0]  as MOSAIC's builder has it
zero-filled
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mosaic_collect.errors import InputError

OLDEST_FIRST, NEWEST_FIRST = "oldest_first", "newest_first"
FIRST_FRAME, ZEROS = "first_frame", "zeros"
BY_TERM, BY_TIME = "term", "time"


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
