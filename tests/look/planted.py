"""A robot's recordings of any size, healthy or with planted defects, for tests and measurements.

    python -m tests.look.planted STORE [--steps 3906] [--envs 256] [--healthy]

It records 20 motions, with 15 defects unless ``--healthy``, and prints what the findings are.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mosaic_collect import TrajectoryDataset, TrajectoryWriter, store_findings
from mosaic_collect.store.schema import Field, Schema

_LEG = [f"hip_{axis}" for axis in ("pitch", "roll", "yaw")] + ["knee", "ankle_pitch", "ankle_roll"]
_ARM = [f"shoulder_{axis}" for axis in ("pitch", "roll", "yaw")]
_ARM += ["elbow", "wrist_roll", "wrist_pitch", "wrist_yaw"]
JOINTS = [
    *(f"{side}_{joint}_joint" for side in ("left", "right") for joint in _LEG),
    *(f"waist_{axis}_joint" for axis in ("yaw", "roll", "pitch")),
    *(f"{side}_{joint}_joint" for side in ("left", "right") for joint in _ARM),
]
ROBOT = {
    "name": "g1",
    "joint_names": JOINTS,
    "action_names": JOINTS,
    "control_dt": 0.02,
    "units": {"joint_pos": "rad", "joint_vel": "rad/s", "base_ang_vel": "rad/s"},
}
Rows = dict[str, Any]
Edit = Callable[[int, Rows], None]


class Fall(NamedTuple):
    """Share of a motion's trajectories that fall, at a frame between two."""

    share: float
    first: int
    last: int


class Size(NamedTuple):
    """Size of a recording; motions have ``frames`` to twice as many frames."""

    steps: int = 400
    envs: int = 24
    joints: int = 6
    motions: int = 6
    frames: int = 18

    @property
    def terms(self) -> dict[str, Any]:
        j = self.joints
        dims = {"command": 2 * j, "base_ang_vel": 3, "joint_pos": j, "joint_vel": j, "actions": j}
        return {"observations": [{"name": name, "dim": dim} for name, dim in dims.items()]}

    def column(self, term: str, at: int = 0) -> int:
        """Column of the observations."""
        start = 0
        for entry in self.terms["observations"]:
            if entry["name"] == term:
                return start + at
            start += entry["dim"]
        raise KeyError(term)

    @property
    def schema(self) -> Schema:
        extra = [Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32")]
        obs_dim = 5 * self.joints + 3
        return Schema.mosaic(obs_dim=obs_dim, action_dim=self.joints, extra=extra).with_ends()


SMALL = Size()


def record(
    path: str,
    seed: int = 0,
    edit: Edit = lambda step, rows: None,
    falls: Mapping[int, Fall] | None = None,
    weights: Any = None,
    size: Size = SMALL,
    **metadata: Any,
) -> TrajectoryDataset:
    """Joints that follow motions, over and over, at first from a random frame.

    Args:
        path: The store.
        seed: Seed of everything.
        edit: Changes a step's rows before they are recorded; they contain the motions' ids and
            frames, too.
        falls: Per motion, how often and where its trajectories fail.
        weights: Share of each motion.
        size: Size of the recording.
        **metadata: Further metadata.
    """
    rng, (steps, envs, joints, motions, shortest) = np.random.default_rng(seed), size
    frames = shortest + shortest * np.arange(motions) // motions
    phase, speed = rng.uniform(0, 6, (motions, joints)), rng.uniform(0.2, 0.4, (motions, 1))
    motion = rng.choice(motions, envs, p=weights)
    frame, fall = rng.integers(0, frames[motion]), np.full(envs, -1)
    last = np.zeros((envs, joints))
    told = {"terms": size.terms, "motions": [{"path": f"/m/dance{i}.npz"} for i in range(motions)]}
    options = {"metadata": {**told, **metadata}, "encode_in": "threads"}
    if steps * envs < 100_000:
        options["buffer_mb"] = 0.5
    with TrajectoryWriter(path, size.schema, envs, **options) as writer:
        for step in range(steps):
            angle = speed[motion] * frame[:, None] + phase[motion]
            noise = rng.standard_normal((4, envs, joints), dtype="f4")
            command = [0.4 * np.sin(angle), 0.4 * np.cos(angle)]
            body = [rng.standard_normal((envs, 3), dtype="f4"), command[0] + 0.05 * noise[0]]
            rows: Rows = {
                "observations": np.concatenate(
                    [*command, *body, command[1] + noise[1], last], axis=1
                ),
                "actions": command[0] + 0.3 * noise[2],
                "action_sigma": np.full((envs, joints), 0.3) * rng.uniform(0.9, 1.1, (envs, 1)),
                "motion_id": motion.astype("i4"),
                "motion_frame": frame.astype("i4"),
            }
            edit(step, rows)
            rows["action_mean"] = last = rows["actions"]
            mask = rows.pop("valid_mask", np.ones(envs, bool))
            rows = {k: v if v.dtype == "i4" else v.astype("f4") for k, v in rows.items()}
            writer.add_step(**rows, valid_mask=mask)
            failed = frame == fall
            over = np.flatnonzero(failed | (frame >= frames[motion] - 1))
            writer.end_trajectories(over, failed=failed)
            motion[over] = rng.choice(motions, len(over), p=weights)
            frame = frame + 1
            frame[over], fall[over] = 0, -1
            for env in over:
                if (where := (falls or {}).get(int(motion[env]))) and rng.random() < where.share:
                    fall[env] = rng.integers(where.first, where.last + 1)
    return TrajectoryDataset(path)


def put(name: str, at: Any, value: Any, steps: range = range(1 << 40)) -> Edit:
    """An edit of some values: ``value`` is the new one, or makes it of the old one and the step."""

    def edit(step: int, rows: Rows) -> None:
        if step in steps:
            rows[name][at] = value(rows[name][at], step) if callable(value) else value

    return edit


def hold(env: int, first: int) -> Edit:
    """An environment whose rows stay as they are from a step on."""
    kept: Rows = {}

    def edit(step: int, rows: Rows) -> None:
        if step == first:
            kept.update({k: v[env].copy() for k, v in rows.items() if v.dtype != "i4"})
        for name, value in kept.items():
            rows[name][env] = value

    return edit


def idle(envs: slice, steps: range) -> Edit:
    """Environments without a valid row for some steps."""

    def edit(step: int, rows: Rows) -> None:
        rows["valid_mask"] = np.ones(len(rows["actions"]), bool)
        rows["valid_mask"][envs] = step not in steps

    return edit


def track_worse(size: Size, motion: int, factor: float) -> Edit:
    """A motion whose joints are further from the command."""
    here, there = slice(0, size.joints), size.column("joint_pos")

    def edit(step: int, rows: Rows) -> None:
        observations, of = rows["observations"], rows["motion_id"] == motion
        robot = observations[:, there : there + size.joints]
        robot[of] += (factor - 1) * (robot[of] - observations[of, here])

    return edit


def all_edits(size: Size) -> Edit:
    """Defects of values, as many as fit into one store, each in columns of its own."""
    s, obs, quarter = size, "observations", size.steps // 4
    joint = s.joints // 2
    dead = [s.column("joint_pos", joint), s.column("joint_vel", joint)]
    edits = [
        put(obs, np.s_[:, s.column("base_ang_vel", 1)], 0.25),
        put("actions", np.s_[:, joint], 0.0),
        put(obs, (7, s.column("joint_vel", 1)), np.nan, range(2 * quarter, 2 * quarter + 20)),
        idle(np.s_[4 : 4 + s.envs // 20], range(quarter, quarter + 300)),
        put("actions", np.s_[:, 3], lambda values, step: np.clip(8 * values, -1, 1)),
        put("actions", (2, 2), 10_000.0, range(quarter + 1, quarter + 2)),
        put(
            obs,
            np.s_[:, s.column("joint_pos", joint + 1)],
            lambda values, step: values + 0.8 * step / s.steps,
        ),
        hold(s.envs // 3, s.steps // 3),
        put("action_sigma", np.s_[:, s.joints - 1], 1e-6),
        track_worse(s, 7, 8.0),
        put(obs, np.s_[:, dead], 0.0),
    ]

    def edit(step: int, rows: Rows) -> None:
        for one in edits:
            one(step, rows)

    return edit


def record_all(path: str, size: Size, **metadata: Any) -> TrajectoryDataset:
    """A store with every defect of newcomers: in values, in motions, and in the recording."""
    weights = np.ones(size.motions)
    weights[-1] = 0.05
    end, share = size.frames, {13: Fall(0.93, size.frames // 2, size.frames // 2 + 10)}
    falls = {**share, 7: Fall(0.65, 5, end - 1), **{i: Fall(0.05, 5, end - 1) for i in range(7)}}
    entries = [[0, 100.0, 0, 0], [0, 200.0, size.steps, 30.0]]
    return record(
        path,
        edit=all_edits(size),
        falls=falls,
        weights=weights / weights.sum(),
        size=size,
        pace={"max_steps": size.steps, "entries": entries},
        **metadata,
    )


def main() -> None:
    """Record if there is nothing yet, and print the findings with time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--steps", type=int, default=3906)
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--healthy", action="store_true")
    asked = parser.parse_args()
    size = Size(asked.steps, asked.envs, joints=29, motions=20, frames=200)
    if not os.path.exists(asked.store):
        (record if asked.healthy else record_all)(asked.store, size=size, robot=ROBOT)
        return
    begun = time.process_time()
    for finding in store_findings(asked.store):
        print(  # noqa: T201
            f"{finding.severity:8} {finding.kind:20} {finding.text}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(  # noqa: T201
        f"{time.process_time() - begun:.1f} s of CPU, at most {peak:,.0f} MB"
    )


if __name__ == "__main__":
    main()
