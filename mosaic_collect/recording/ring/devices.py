"""Where steps are staged: in host memory, or on a CUDA device."""

from __future__ import annotations

import logging

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError, SpaceError
from mosaic_collect.recording.ring.blocks import HostStaging, SharedRing
from mosaic_collect.store.metadata import StoreState

_log = logging.getLogger(__name__)


def check_device(device: str) -> None:
    """Refuse what is neither the CPU nor a CUDA device that is there.

    Raises:
        InputError: No such device.
        MissingDependencyError: A device, but no torch.
    """
    if device == "cpu":
        return
    with needed(f"device {device!r} needs torch"):
        import torch
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f'device: expected "cpu" or "cuda:0", got {device!r}') from error
    seen = torch.cuda.device_count() if asked.type == "cuda" else 0
    if (asked.index or 0) >= seen:
        raise InputError(f"device: expected cpu, or a CUDA device that torch sees, got {device!r}")


def staging_nbytes(device: str) -> int | None:
    """Free bytes of the device's memory; None for the CPU."""
    if device == "cpu":
        return None
    from mosaic_collect.recording.ring.cuda import free_device_nbytes

    return free_device_nbytes(device)


def staging_of(
    state: StoreState, device: str, slots: int, shared: bool
) -> tuple[HostStaging, SharedRing | None]:
    """What copies steps, and the ring's memory if it can be shared with another process.

    Args:
        state: State of the store.
        device: "cpu", or a CUDA device.
        slots: Number of slots of the ring.
        shared: Whether another process is wanted.
    """
    if shared:
        try:
            # What a device copies out lies as it does there, and is read as the codecs want it.
            ring = SharedRing(state.grids(), slots, by_step=device == "cpu")
            return _staging(state, device, ring), ring
        except SpaceError:
            raise
        except OSError as error:
            _log.warning("no memory that processes can share: %s; encoding in threads", error)
    # Only here, where no traceback holds the staging any more that failed.
    return _staging(state, device, None), None


def _staging(state: StoreState, device: str, ring: SharedRing | None) -> HostStaging:
    if device == "cpu":
        return HostStaging(state.grids(), state.num_envs, ring)
    from mosaic_collect.recording.ring.cuda import cuda_staging  # torch is optional on the CPU

    return cuda_staging(state.grids(), state.num_envs, device, ring)
