"""Promise 1, with real processes and real kills; thousands more with ``torture.py``."""

from __future__ import annotations

import random

import pytest

from tests.durability import torture
from tests.durability.figures import count

KILLS = 250


@pytest.mark.parametrize(("encode_in", "kills"), [("threads", KILLS), ("process", 30)])
def test_hundreds_of_kills(encode_in: str, kills: int) -> None:
    result = torture.apart("--kills", str(kills), "--seed", "3", "--encode-in", encode_in)
    assert result.returncode == 0, result.stderr
    count("kills survived", kills)
    assert result.stderr == ""
    assert result.stdout.splitlines()[0].split() == ["kills", str(kills)]


@pytest.mark.parametrize(("committed", "added"), [(6, 6), (3, 4)])
def test_the_campaign_sees_lost_and_invented_steps(store: str, committed: int, added: int) -> None:
    shape = torture.Shape.drawn(random.Random(1))
    with shape.open(store, 1) as writer:
        for step in range(5):
            torture.add(writer, shape, step)
    torture.inspect(store, shape, torture.Told(5, 5))
    with pytest.raises(AssertionError, match="5 steps"):
        torture.inspect(store, shape, torture.Told(committed, added))


def test_the_campaign_sees_a_wrong_row(store: str) -> None:
    shape = torture.Shape(num_envs=2, block_steps=3, compressor="none", dims=(2,))
    with shape.open(store, 1) as writer:
        for step in (0, 1, 3):
            torture.add(writer, shape, step)
    with pytest.raises(AssertionError, match="f0"):
        torture.inspect(store, shape, torture.Told(3, 3))
