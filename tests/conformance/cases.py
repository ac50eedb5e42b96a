"""The stores that every reader must read alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_collect import Field, Schema, TrajectoryDataset
from mosaic_collect.store.codec import CODECS
from tests.helpers import ALL_DTYPES, CAMERA, SMALL, expected, mask, open_writer, rows

WIDE = Schema.mosaic(obs_dim=17, action_dim=5, student_obs_dim=40)
THIN = Schema((Field(name="a", dim=1), Field(name="b")))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One store.

    Attributes:
        schema: Its fields.
        num_envs: N.
        steps: T.
        block_steps: S; where it does not divide T the last block is partial.
        compressor: As the writer's.
        chunk_nbytes: Aim of a chunk; small ones make several a shard, with padding.
        commits: Steps after which to checkpoint.
    """

    schema: Schema = SMALL
    num_envs: int = 4
    steps: int = 7
    block_steps: int = 3
    compressor: str = "auto"
    chunk_nbytes: int = 1 << 20
    commits: tuple[int, ...] = ()

    def __str__(self) -> str:
        known = {id(SMALL): "small", id(WIDE): "wide", id(THIN): "thin", id(CAMERA): "camera"}
        name = known.get(id(self.schema), "all")
        shape = f"T{self.steps}-N{self.num_envs}-S{self.block_steps}-C{self.chunk_nbytes}"
        return f"{name}-{shape}-{self.compressor}"

    def write(self, path: Any, patch: Any) -> TrajectoryDataset:
        """Write the store; its trajectories end now and then."""
        patch.setattr("mosaic_collect.store.grid.CHUNK_NBYTES", self.chunk_nbytes)
        options = {"schema": self.schema, "block_steps": self.block_steps}
        with open_writer(path, self.num_envs, compressor=self.compressor, **options) as writer:
            for step in range(self.steps):
                given = rows(step, self.num_envs, self.schema)
                writer.add_step(**given, valid_mask=mask(step, self.num_envs))
                if step % 3 == 1:
                    writer.end_trajectories([step % self.num_envs])
                if step in self.commits:
                    writer.commit()
        return TrajectoryDataset(path)

    def holds(self) -> dict[str, np.ndarray]:
        """What it holds, all fields, without asking the package's reader."""
        n = self.num_envs
        want = expected(range(self.steps), n, self.schema)
        want["valid_mask"] = np.array([mask(s, n) for s in range(self.steps)], bool).reshape(-1, n)
        ids, current, unused = np.zeros((self.steps, n), np.int64), np.arange(n), n
        for step in range(self.steps):
            ids[step] = current
            if step % 3 == 1:
                current[step % n] = unused
                unused += 1
        return {**want, "trajectory_id": ids}


CASES = [
    Case(),
    Case(steps=0),
    Case(steps=1),
    Case(steps=3),
    Case(steps=6, commits=(0, 2, 4)),
    Case(steps=7, commits=(0, 1, 2, 3, 4, 5, 6)),
    Case(num_envs=1, steps=5),
    Case(num_envs=1, steps=5, block_steps=1),
    Case(num_envs=33, steps=5, block_steps=4),
    Case(num_envs=7, chunk_nbytes=64),
    Case(num_envs=7, chunk_nbytes=64, steps=13, block_steps=5, compressor="lz4"),
    Case(num_envs=5, chunk_nbytes=16, compressor="none"),
    *(Case(compressor=c) for c in CODECS),
    *(Case(schema=WIDE, num_envs=9, chunk_nbytes=1000, compressor=c) for c in ("auto", "lz4")),
    Case(schema=WIDE, num_envs=40, steps=70, block_steps=64),
    *(Case(schema=ALL_DTYPES, compressor=c) for c in ("auto", "lz4")),
    Case(schema=ALL_DTYPES, num_envs=5, chunk_nbytes=24, steps=8),
    Case(schema=THIN, num_envs=3, steps=9, block_steps=2),
    Case(schema=CAMERA, num_envs=3, steps=9, block_steps=4),
    # Chunks of two images, of one environment each.
    *(
        Case(schema=CAMERA, num_envs=3, steps=15, block_steps=6, chunk_nbytes=80, compressor=c)
        for c in ("auto", "lz4", "none")
    ),
]
