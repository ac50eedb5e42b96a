"""Findings: each planted problem is found with its place, and a healthy store has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Finding, TrajectoryDataset, TrajectoryWriter, store_findings
from mosaic_collect.look.findings import NOTE, WARNING, find
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.store.schema import Field, Schema

J, STEPS, ENVS, MOTIONS = 6, 400, 24, 6
SCHEMA = Schema.mosaic(
    obs_dim=2 * J,
    action_dim=J,
    extra=[Field(name="motion_id", dtype="int32"), Field(name="motion_frame", dtype="int32")],
).with_ends()
TERMS = {"observations": [{"name": "joint_pos", "dim": J}, {"name": "joint_vel", "dim": J}]}
FRAMES = np.array([24, 28, 30, 32, 36, 26])
Rows = dict[str, Any]
Edit = Callable[[int, Rows], None]


def record(
    path: str,
    seed: int = 0,
    edit: Edit = lambda step, rows: None,
    falls: dict[int, int] | None = None,
    weights: Any = None,
    **metadata: Any,
) -> TrajectoryDataset:
    """Joints that follow one of six motions, over and over, each from a random frame.

    Args:
        path: The store.
        seed: Seed of everything.
        edit: Changes a step's rows before they are recorded.
        falls: Motion -> frame at which all its trajectories fail.
        weights: Share of each motion.
        **metadata: Further metadata.
    """
    rng = np.random.default_rng(seed)
    told = {"terms": TERMS, "motions": [{"path": f"/m/{i}.npz"} for i in range(MOTIONS)]}
    phase, motion = rng.uniform(0, 6, (MOTIONS, J)), rng.choice(MOTIONS, ENVS, p=weights)
    frame = rng.integers(0, FRAMES[motion])
    options = {"metadata": {**told, **metadata}, "buffer_mb": 0.2, "encode_in": "threads"}
    with TrajectoryWriter(path, SCHEMA, ENVS, **options) as writer:
        for step in range(STEPS):
            angle = 0.4 * np.sin(0.3 * frame[:, None] + phase[motion])
            noise = rng.standard_normal((3, ENVS, J))
            rows: Rows = {
                "observations": np.concatenate([angle + 0.05 * noise[0], noise[1]], axis=1),
                "actions": angle + 0.3 * noise[2],
                "action_sigma": np.full((ENVS, J), 0.3) * rng.uniform(0.9, 1.1, (ENVS, 1)),
            }
            edit(step, rows)
            rows["action_mean"] = rows["actions"]
            mask = rows.pop("valid_mask", np.ones(ENVS, bool))
            rows = {name: value.astype("f4") for name, value in rows.items()}
            ids = {"motion_id": motion.astype("i4"), "motion_frame": frame.astype("i4")}
            writer.add_step(**rows, **ids, valid_mask=mask)
            failed = np.isin(frame, list((falls or {}).values())) & np.isin(
                motion, list(falls or {})
            )
            over = np.flatnonzero(failed | (frame >= FRAMES[motion] - 1))
            writer.end_trajectories(over, failed=failed)
            motion[over] = rng.choice(MOTIONS, len(over), p=weights)
            frame = frame + 1
            frame[over] = 0
    return TrajectoryDataset(path)


def of_kind(dataset: TrajectoryDataset, kind: str) -> list[Finding]:
    return [finding for finding in store_findings(dataset, None) if finding.kind == kind]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_healthy_store_has_none(store: str, seed: int) -> None:
    found = store_findings(record(store, seed), None)
    assert [f for f in found if f.severity != NOTE] == []


def test_short_healthy_stores_have_none(store: str) -> None:
    """A few steps are no trend, and a pause of a few is no idleness."""
    rng = np.random.default_rng(0)
    with TrajectoryWriter(store, Schema.mosaic(4, 2), 3) as writer:
        for _ in range(9):
            rows = {"observations": rng.standard_normal((3, 4)), "actions": rng.random((3, 2))}
            writer.add_step(**{k: v.astype("f4") for k, v in rows.items()})
    assert [f for f in store_findings(store) if f.severity != NOTE] == []


def put(name: str, at: Any, value: Any, steps: range = range(STEPS)) -> Edit:
    def edit(step: int, rows: Rows) -> None:
        if step in steps:
            rows[name][at] = value(rows[name][at], step) if callable(value) else value

    return edit


def hold(env: int, first: int) -> Edit:
    """An environment whose rows stay as they are from a step on."""
    kept: Rows = {}

    def edit(step: int, rows: Rows) -> None:
        if step == first:
            kept.update({name: value[env].copy() for name, value in rows.items()})
        for name, value in kept.items():
            rows[name][env] = value

    return edit


def idle(envs: slice, steps: range) -> Edit:
    def edit(step: int, rows: Rows) -> None:
        rows["valid_mask"] = np.ones(ENVS, bool)
        rows["valid_mask"][envs] = step not in steps

    return edit


ALL = np.s_[:, 3]
PLANTED: dict[str, tuple[Edit, str, str, dict[str, Any]]] = {
    "dead_actuator": (
        put("actions", ALL, 0.0),
        "error",
        "actions: always 0: [3]",
        {"field": "actions", "features": (3,)},
    ),
    "constant_action": (
        put("actions", ALL, 0.5),
        "warning",
        "actions: constant: [3]",
        {"field": "actions", "features": (3,)},
    ),
    "dead_feature": (
        put("observations", ALL, 0.0),
        "warning",
        "observations: always 0: joint_pos[3]",
        {"features": (3,)},
    ),
    "constant_feature": (
        put("observations", np.s_[:, J + 1], 0.25),
        "note",
        "observations: constant: joint_vel[1]",
        {"features": (J + 1,)},
    ),
    "clipped": (
        put("actions", ALL, lambda values, step: np.clip(4 * values, -1, 1)),
        "warning",
        "actions: clipped: [3] (",
        {"features": (3,)},
    ),
    "outlier": (
        put("actions", (5, 2), 10_000.0, range(123, 124)),
        "warning",
        "actions[2] is 1e+04 at step 123, environment 5, trajectory",
        {"features": (2,), "environments": (5,), "steps": (123, 123)},
    ),
    "drift": (
        put("observations", ALL, lambda values, step: values + 0.8 * step / STEPS),
        "warning",
        "observations: drifting: joint_pos[3]",
        {"features": (3,)},
    ),
    "collapsed_sigma": (
        put("action_sigma", ALL, lambda values, step: values * 1e-6),
        "warning",
        "action_sigma: collapsed: [3]",
        {"features": (3,)},
    ),
    "nonfinite": (
        put("observations", (7, 4), np.nan, range(200, 220)),
        "error",
        "observations: 20 pairs hold NaN or infinity in: joint_pos[4] (",
        {"features": (4,), "environments": (7,), "steps": (200, 200)},
    ),
    "frozen_environment": (
        hold(11, 150),
        "error",
        "1 of 24 environments stand still for a while: 11 (steps 150 to 399)",
        {"environments": (11,), "steps": (150, 399)},
    ),
    "idle_environment": (
        idle(np.s_[4:6], range(100, 200)),
        "note",
        "2 of 24 environments are idle for a while: 4-5 (steps 104 to 194)",
        {"environments": (4, 5)},
    ),
    "far_environment": (
        put("observations", (20, slice(J)), lambda values, step: values + 5),
        "warning",
        "observations: 1 of 24 environments far from the others: 20; ",
        {"environments": (20,), "features": tuple(range(J))},
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_is_found(store: str, kind: str) -> None:
    edit, severity, words, place = PLANTED[kind]
    dataset = record(store, edit=edit)
    first, *more = of_kind(dataset, kind)
    assert first.severity == severity
    assert words in first.text
    assert {name: getattr(first, name) for name in place} == place
    # Nothing else is wrong, but what the same values cause in another field.
    others = {f.kind for f in store_findings(dataset, None) if f.severity != NOTE} - {kind}
    assert others <= {"far_environment"} if kind == "frozen_environment" else not others
    assert {f.field for f in more} <= {"action_mean"}


class TestMotions:
    def test_failing(self, store: str) -> None:
        dataset = record(store, falls={2: 17})
        (found,) = of_kind(dataset, "failing_motion")
        assert found.motions == (2,)
        assert "motion 2 2.npz: " in found.text
        assert "trajectories fail (" in found.text
        assert found.text.endswith("most at frames 17")
        ends = {t.id: (t.end, t.motion) for t in dataset.trajectories}
        assert found.trajectories
        assert {ends[number] for number in found.trajectories} == {("failed", 2)}

    def test_hardly_recorded(self, store: str) -> None:
        weights = np.array([1, 1, 1, 1, 1, 0.01])
        (found,) = of_kind(record(store, weights=weights / weights.sum()), "rare_motion")
        assert (found.motions, found.severity) == ((5,), WARNING)

    def test_of_a_store_without_motions(self, store: str) -> None:
        with TrajectoryWriter(store, Schema.mosaic(4, 2).with_ends(), 3) as writer:
            for step in range(40):
                writer.add_step(
                    observations=np.full((3, 4), step, "f4"), actions=np.full((3, 2), step, "f4")
                )
                writer.end_trajectories([0, 1, 2], failed=[0, 1, 2])
        kinds = {f.kind for f in store_findings(store)}
        assert {"failing", "short_trajectories"} <= kinds
        assert not kinds & {"failing_motion", "rare_motion"}


def test_gaps_between_runs(store: str) -> None:
    entries = [[0, 100.0, 0, 0], [0, 200.0, 200, 0.0], [1, 8000.0, 200, 0], [1, 8100.0, 400, 0.0]]
    (found,) = of_kind(record(store, pace={"max_steps": STEPS, "entries": entries}), "gap")
    assert found.text == "the recording paused for 2 h 10 min between two runs"


def test_an_even_part_finds_what_it_reads(store: str) -> None:
    edit, _, words, _ = PLANTED["dead_actuator"]
    found = store_findings(record(store, edit=edit), max_pairs=2000)
    assert next(f.text for f in found if f.kind == "dead_actuator").startswith(words)


def test_as_data(store: str, cli: Any, tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    dataset = record(store, edit=PLANTED["outlier"][0])
    path = tmp_path / "findings.json"
    done = cli("report", store, "--json", str(path))
    assert (done.code, done.err) == (0, "")
    told = json.loads(path.read_text())
    found = find(dataset, store_statistics(dataset))
    assert told["store"] == store
    assert told["findings"] == json.loads(json.dumps([f.to_json() for f in found]))
    page = (tmp_path / "expert.report.html").read_text()
    assert "Warning: actions: outliers: [2]" in page
    cli("report", store, "--json", "no/such.json").failed("--json: expected a folder at")
