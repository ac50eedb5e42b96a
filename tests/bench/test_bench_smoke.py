"""The benchmarks run, and would notice a recorder that loses or changes a value."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchlib import codecs, export, loop, read, sample, scale, unstaged  # noqa: E402
from benchlib.frames import camera_workload  # noqa: E402
from benchlib.peers import PEERS, Plan  # noqa: E402
from benchlib.recording import DifferentDataError, record, record_all  # noqa: E402
from benchlib.workload import Workload, make_workload  # noqa: E402

from mosaic_collect import Field, Schema, TrajectoryWriter, export_npy  # noqa: E402

STEPS = 10
TINY = shlex.split(
    "--runs 1 --num-envs 3 --dims small --block-steps 4 --buffer-mb 0.05 --disk-only"
    " --steps 10 --long-steps 20 --no-sweep --loop-steps 3 --read-steps 12"
    " --cameras tiny --camera-steps 6 --unstaged-envs 3 --unstaged-steps 4"
    " --sample-steps 48 --sample-seconds 0.1 --batch 8 --shuffle-buffer-mb 0.1"
    " --export-gb 0.0005 --export-runs 1 --passes-gb 0.0005 --blocks 2 4 --object-blocks 2 3"
    " --recorders mosaic_collect memmap h5py"
)


@pytest.fixture(scope="module")
def workload():
    return make_workload(3, "small")


@pytest.fixture
def plan(tmp_path):
    return Plan(str(tmp_path / "out"), STEPS, 4, 0.05, "auto")


def altered(workload, field="actions"):
    """The same steps, but one value of step 7 is another in its last bit."""

    def change(index, rows):
        if index != 7:
            return rows
        values = rows[field].copy()
        values.view(np.uint8).reshape(-1)[0] ^= 1
        return {**rows, field: values}

    return Workload(workload.pool, change)


def bench(folder, command):
    """Run the script as a user does; its parent process must hold no threads, so not here."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    out = folder / "bench.json"
    arguments = [command, *TINY, "--folder", str(folder), "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.mark.parametrize(
    "command",
    [
        "ingest",
        "loop",
        "unstaged",
        "export",
        "read",
        "sample",
        "scale",
        "ranks",
        "passes",
        "codec",
        "camera",
        "objects",
        "gpu",
    ],
)
def test_subcommand_prints_a_table_and_writes_json(tmp_path, command):
    printed, results = bench(tmp_path, command)
    assert "###" in printed
    assert results[command]
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"], "something was left behind"


def test_steps_close_on_themselves_and_histories_hold_the_frames_before(workload):
    width = 6 + 3 + 3
    term = workload.pool["student_observations"][..., : 5 * 6].reshape(-1, 3, 5, 6)
    assert workload.pool["observations"].shape == (256, 3, width)
    for age in range(1, 5):
        assert (term[:, :, 4 - age] == np.roll(term[:, :, 4], age, axis=0)).all()


def test_images_close_on_themselves_and_no_two_are_the_same():
    pool = camera_workload(3, (16, 16, 3)).pool["camera"].reshape(128, 3, -1)
    assert len(np.unique(pool.reshape(128 * 3, -1), axis=0)) == 128 * 3
    steps = np.abs(np.diff(pool.astype(int), axis=0)).mean(axis=(1, 2))
    seam = np.abs(pool[0].astype(int) - pool[-1]).mean()
    assert steps.min() / 2 < seam < steps.max() * 2


def test_an_altered_image_is_noticed(plan):
    with pytest.raises(DifferentDataError, match="camera"):
        record("mosaic_collect", altered(camera_workload(3, (8, 8, 3)), "camera"), plan)


def test_a_pool_shorter_than_a_block_is_refused(workload):
    with pytest.raises(AssertionError, match="repeats the pool"):
        workload.require_distinct(257)


@pytest.mark.parametrize("name", PEERS)
def test_an_altered_recording_is_noticed(workload, plan, name):
    try:
        PEERS[name].load()
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(DifferentDataError, match="actions, steps 0"):
        record(name, altered(workload), plan)


def test_an_altered_mask_is_noticed(workload, plan):
    with pytest.raises(DifferentDataError, match="valid_mask"):
        record("mosaic_collect", altered(workload, "valid_mask"), plan)


def test_loop_notices(workload, plan):
    with pytest.raises(DifferentDataError):
        loop.run_loop("mosaic_collect", altered(workload), plan)


def test_unstaged_notices(tmp_path):
    """A block that is none of the first three."""
    plan = Plan(str(tmp_path / "out"), 40, 4, 0.05, "auto")
    other = make_workload(3, "small", noise=0.5)
    recorder = unstaged._filled(PEERS["mosaic_collect"].load(), make_workload(3, "small"), plan)
    for index in range(3 * recorder.writer.block_steps):
        recorder.add(other.step(index))
    recorder.finish()
    unstaged._compare(plan)
    recorder = PEERS["mosaic_collect"].load()(other, Plan(f"{plan.path}2", 40, 4, 0.05, "auto"))
    for index in range(4 * recorder.writer.block_steps):
        recorder.add(other.step(index))
    recorder.finish()
    with pytest.raises(DifferentDataError, match="of no block of the ring"):
        unstaged._compare(Plan(f"{plan.path}2", 40, 4, 0.05, "auto"))


@pytest.mark.parametrize("name", read.READERS)
def test_read_notices(workload, plan, name):
    record_all(altered(workload), plan)
    with pytest.raises(DifferentDataError):
        read.measure_reader(name, workload, plan)


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_export_notices(workload, plan, tmp_path, layout):
    record_all(altered(workload), plan)
    export_npy(plan.path, tmp_path / "x.npy", layout=layout)
    with pytest.raises(DifferentDataError, match="actions"):
        export.compare_export(workload, str(tmp_path / "x.npy"), STEPS, layout)


def test_scale_notices(tmp_path):
    schema = Schema((Field(name="observations", dim=1),))
    with TrajectoryWriter(tmp_path / "s", schema, 2) as writer:
        for value in (0, 1, 3):
            writer.add_step(observations=np.full((2, 1), value, np.float32))
    with pytest.raises(DifferentDataError):
        scale.check_values(str(tmp_path / "s"), 3)


def test_codec_notices(workload):
    class Lossy:
        def encode(self, values):
            return [values.tobytes()]

        def decode(self, data, out, what):
            out.reshape(-1).view(np.uint8)[:] = np.frombuffer(data[:-4], np.uint8)
            out.reshape(-1)[0] += 1

    with pytest.raises(DifferentDataError):
        codecs.measure(Lossy(), Lossy(), codecs.chunks_of(workload, 4)["actions"])


def test_a_batch_of_other_rows_is_seen(workload):
    rows = {n: workload.pool[n].reshape(-1, workload.pool[n].shape[-1]) for n in sample.FIELDS}
    batch = {n: r[5:9].copy() for n, r in rows.items()}
    sample.check(batch, workload)
    batch["student_observations"][[0, 1]] = batch["student_observations"][[1, 0]]
    with pytest.raises(DifferentDataError, match="student_observations"):
        sample.check(batch, workload)
