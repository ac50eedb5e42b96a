"""Which of several processes this is, by what torchrun tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mosaic_collect.errors import InputError
from mosaic_collect.store.ranks import MAX_RANK

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Rank:
    """One of several processes.

    Attributes:
        number: Among all, from 0 on.
        local: Among those of its machine.
        world_size: How many there are.
    """

    number: int
    local: int
    world_size: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Rank:
        """By torchrun's variables, or by those that a script sets like them.

        Raises:
            InputError: One of them is missing, or no such number.
        """
        told = {name: environ.get(name, "") for name in _NAMES}
        wrong = [f"{name}={value!r}" for name, value in told.items() if not value.isdecimal()]
        if wrong:
            raise InputError(
                f"distributed: expected torchrun's {', '.join(_NAMES)} in the environment, got "
                f"{', '.join(wrong)}"
            )
        number, local, world_size = (int(value) for value in told.values())
        if not number < world_size <= MAX_RANK + 1:
            raise InputError(
                f"distributed: expected RANK below WORLD_SIZE, and that at most {MAX_RANK + 1}, "
                f"got {number} and {world_size}"
            )
        return cls(number, local, world_size)

    def device(self, asked: str | None, cuda: bool) -> str:
        """Where it computes: as asked for, or a CUDA device of its own on its machine."""
        return asked or (f"cuda:{self.local}" if cuda else "cpu")

    def seed(self, seed: int, run: int) -> int:
        """A seed of its own, and of each of its runs."""
        numbers = np.random.SeedSequence([seed % (1 << 32), self.number, run])
        return int(numbers.generate_state(1)[0])
