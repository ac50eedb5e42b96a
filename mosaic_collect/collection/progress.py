"""How far a collection is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from mosaic_collect.recording.writer import TrajectoryWriter


class ProgressBar:
    """Steps, env-steps/s, MB/s in and on disk, and the share of time stalled, on stderr.

    Args:
        max_steps: Of the store in all; None: nobody knows.
        name: Of what is collected.
    """

    def __init__(self, max_steps: int | None, name: str = "collect") -> None:
        self._bar: Any = tqdm(total=max_steps, unit="step", desc=name, disable=None)

    def __enter__(self) -> Callable[[TrajectoryWriter], None]:
        return self._show

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def _show(self, writer: TrajectoryWriter) -> None:
        self._bar.update(writer.num_steps - self._bar.n)
        stats = writer.stats
        seconds = max(stats.seconds, 1e-9)
        self._bar.set_postfix_str(
            f"{stats.steps * writer.num_envs / seconds:,.0f} env-steps/s, "
            f"{stats.raw_nbytes / seconds / 1e6:.1f} MB/s in, "
            f"{stats.stored_nbytes / seconds / 1e6:.1f} MB/s on disk, "
            f"{stats.stalled_seconds / seconds:.1%} stalled",
            refresh=False,
        )
