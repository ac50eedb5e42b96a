"""``mosaic-collect demo``, in a checkout only: it runs ``examples/g1``, which is not installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mosaic_collect.checks import needed
from mosaic_collect.commands.options import Command
from mosaic_collect.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Record, resume, export and verify a Unitree G1 in real physics.

    Attributes:
        output: Folder for stores and exports; those of an earlier demo are replaced.
        student: Run another demo instead: record with action noise, train a student, and let it
            act.
        sim: Simulator; isaaclab is version 3, on Newton's physics.
        num_envs: Number of environments (default: 80, or 128 with --student).
        device: Device of the simulation, cpu or cuda:0; None: CUDA if there is one.
    """

    EXAMPLE: ClassVar[str] = "mosaic-collect demo --output out/demo"

    output: str = "out/demo"
    student: bool = False
    sim: Literal["mjlab", "isaaclab"] = "mjlab"
    num_envs: int | None = None
    device: str | None = None

    def run(self) -> bool:
        """Run a demo; True if everything was verified."""
        sys.path.insert(0, str(Path(__file__).parents[2]))
        with needed("the demo needs mjlab: pip install 'mosaic-collect[mjlab]'", opengl=True):
            from examples.g1.run import run_demo
            from examples.g1.student import run_student
        if self.student:
            if self.sim != "mjlab":
                raise InputError("student: expected only with --sim mjlab")
            return run_student(self.output, self.num_envs or 128, self.device)
        return run_demo(self.output, self.num_envs or 80, self.device, self.sim)
