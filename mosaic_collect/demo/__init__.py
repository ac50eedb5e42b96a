"""``mosaic-collect demo``, in a checkout only: it runs ``examples/g1``, which is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from mosaic_collect.checks import needed
from mosaic_collect.errors import InputError


def run_demo(
    *,
    output: str = "out/demo",
    student: bool = False,
    sim: Literal["mjlab", "isaaclab"] = "mjlab",
    num_envs: int | None = None,
    device: str | None = None,
) -> bool:
    """Record, resume, export and verify a Unitree G1 in real physics.

    Args:
        output: Folder for stores and exports; those of an earlier demo are replaced.
        student: Run another demo instead: record with action noise, train a student, and let it
            act.
        sim: Simulator; isaaclab is version 3, on Newton's physics.
        num_envs: Number of environments (default: 80, or 128 with --student).
        device: Device of the simulation, cpu or cuda:0; None: CUDA if there is one.

    Example:
        mosaic-collect demo --output out/demo
    """
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with needed("the demo needs mjlab: pip install 'mosaic-collect[mjlab]'", opengl=True):
        from examples.g1 import run, student as students
    if student and sim != "mjlab":
        raise InputError("student: expected only with --sim mjlab")
    if student:
        return students.run_student(output, num_envs or 128, device)
    return run.run_demo(output, num_envs or 80, device, sim)
