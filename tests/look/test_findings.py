"""Findings: each planted problem is found with its place, and a healthy store has none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Finding, TrajectoryDataset, TrajectoryWriter, store_findings
from mosaic_collect.look.findings import NOTE, WARNING, find
from mosaic_collect.look.measure import store_statistics
from mosaic_collect.store.schema import Schema
from tests.look.planted import (
    SMALL,
    Edit,
    Fall,
    Size,
    hold,
    idle,
    put,
    record,
    record_all,
    track_worse,
)

J, ENVS = SMALL.joints, SMALL.envs
POS, VEL, GYRO = (SMALL.column(name) for name in ("joint_pos", "joint_vel", "base_ang_vel"))


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
        put("observations", np.s_[:, POS + 3], 0.0),
        "warning",
        "observations: always 0: joint_pos[3]",
        {"features": (POS + 3,)},
    ),
    "constant_feature": (
        put("observations", np.s_[:, GYRO + 1], 0.25),
        "warning",
        "observations: constant: base_ang_vel[1]",
        {"features": (GYRO + 1,)},
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
        put("observations", np.s_[:, POS + 3], lambda values, step: values + 0.002 * step),
        "warning",
        "observations: drifting: joint_pos[3]",
        {"features": (POS + 3,)},
    ),
    "collapsed_sigma": (
        put("action_sigma", ALL, lambda values, step: values * 1e-6),
        "warning",
        "action_sigma: collapsed: [3]",
        {"features": (3,)},
    ),
    "nonfinite": (
        put("observations", (7, POS + 4), np.nan, range(200, 220)),
        "error",
        "observations: 20 pairs hold NaN or infinity in: joint_pos[4] (",
        {"features": (POS + 4,), "environments": (7,), "steps": (200, 200)},
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
        put("observations", (20, slice(POS, POS + J)), lambda values, step: values + 5),
        "warning",
        "observations: 1 of 24 environments far from the others: 20; ",
        {"environments": (20,), "features": tuple(range(POS, POS + J))},
    ),
    "tracking_error": (
        track_worse(SMALL, 2, 8.0),
        "warning",
        "motion 2 dance2.npz tracks badly: joint_pos is 0.",
        {"motions": (2,)},
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
        dataset = record(store, falls={2: Fall(1.0, 17, 17)})
        (found,) = of_kind(dataset, "failing_motion")
        assert found.motions == (2,)
        assert "motion 2 dance2.npz: " in found.text
        assert "trajectories fail (" in found.text
        assert found.text.endswith("most at frames 17")
        ends = {t.id: (t.end, t.motion) for t in dataset.trajectories}
        assert found.trajectories
        assert {ends[number] for number in found.trajectories} == {("failed", 2)}

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
    (found,) = of_kind(record(store, pace={"max_steps": 400, "entries": entries}), "gap")
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


def test_fifteen_problems_of_one_store(store: str) -> None:
    """Each is found with its place, though others are beside it."""
    size = Size(steps=1500, envs=40, joints=8, motions=16, frames=40)
    found = {}
    for finding in store_findings(record_all(store, size), None):
        found.setdefault(finding.kind, []).append(finding)
    texts = {kind: " | ".join(f.text for f in of) for kind, of in found.items()}
    for kind, words in {
        "dead_feature": "joint_pos[4], joint_vel[4]",
        "constant_feature": "base_ang_vel[1]",
        "dead_actuator": "actions: always 0: [4]",
        "nonfinite": "20 pairs hold NaN or infinity in: joint_vel[1] (",
        "stalls": "waited for the disk 30.0% of the time",
        "idle_environment": "2 of 40 environments are idle for a while: 4-5",
        "clipped": "actions: clipped: [3] (7",
        "outlier": "actions[2] is 1e+04 at step 376, environment 2, trajectory",
        "drift": "drifting: joint_pos[5]; joint_pos[5] from 0.0",
        "frozen_environment": "stand still for a while: 13 (steps 500 to 1,499)",
        "collapsed_sigma": "action_sigma: collapsed: [7] (median 1e-06",
        "failing_motion": "most at frames 2",
        "tracking_error": "motion 7 dance7.npz tracks badly: joint_pos is ",
        "rare_motion": "motion 15 dance15.npz is hardly recorded",
    }.items():
        assert words in texts[kind], (kind, texts.get(kind))
    assert [f.motions for f in found["failing_motion"]] == [(13,), (7,)]
    frames = [int(n) for n in found["failing_motion"][0].text.split("at frames ")[1].split(" to ")]
    assert 20 <= frames[0] <= frames[1] <= 30
    assert [f.motions for f in found["tracking_error"]] == [(7,)]
    assert [(f.motions, f.severity) for f in found["rare_motion"]] == [((15,), WARNING)]
    assert found["frozen_environment"][0].environments == (13,)
    assert found["outlier"][0].steps == (376, 376)
    kinds = {f.kind for of in found.values() for f in of if f.severity != NOTE}
    assert kinds <= {*texts} - {"far_environment", "failing", "short_trajectories"}
