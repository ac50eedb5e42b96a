"""``camera``: images of many environments, as fast as they are taken, and at 30 frames a second."""

from __future__ import annotations

import contextlib
import os
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from benchlib.codecs import chunks_of, measure
from benchlib.frames import CAMERAS, FPS, camera_workload
from benchlib.ingest import recorder_row
from benchlib.measure import MB, Meter, in_child, percentile
from benchlib.peers import PEERS, Plan
from benchlib.read import READERS, random_slice_ms
from benchlib.recording import compare, record_once, recorded, removed
from benchlib.table import Figures, in_turns, show, show_medians
from benchlib.workload import Workload
from mosaic_collect.recording.encoder import FieldEncoder
from mosaic_collect.store.codec import Compressor

RECORDERS = ("mosaic_collect", "mosaic-threads", "tensorstore", "zarr-layout", "memmap", "lists")
_CODECS = (("lz4", 5), ("zstd", -3), ("zstd", 1), ("zstd", 3), ("none", 0))
_NOISES = (0.0, 2.0)


def camera(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    results: dict[str, Any] = {}
    for name in args.cameras:
        num_envs, shape = CAMERAS[name]
        title = f"{num_envs} cameras of {' x '.join(map(str, shape))}"
        clean, noisy = (camera_workload(num_envs, shape, noise) for noise in _NOISES)
        results[name] = {
            "codecs": _codecs(args, title, dict(zip(_NOISES, (clean, noisy), strict=True))),
            "ingest": _ingest(args, title, clean),
            "paced": _paced(args, title, clean),
            "read": _read(args, title, clean),
        }
    return results


def _plan(args: Namespace, workload: Workload, steps: int) -> Plan:
    ring_mb = 3 * (args.block_steps + 0.5) * workload.step_nbytes / MB
    path = os.path.join(args.folder, "camera.out")
    return Plan.of(args, path, steps, ring_mb)


def _codecs(args: Namespace, title: str, workloads: dict[float, Workload]) -> dict[str, Any]:
    rows = []
    for name, level in _CODECS:
        row: dict[str, Any] = {"compressor": f"{name} {level}"}
        for noise, workload in workloads.items():
            chunks = chunks_of(workload, args.block_steps)["camera"][:64]
            compressor = Compressor(name, level)
            stored, encode_s, decode_s = measure(FieldEncoder(compressor), compressor, chunks)
            raw = sum(chunk.nbytes for chunk in chunks)
            row |= {
                f"noise {noise:g}: ratio": raw / stored,
                f"{noise:g}: encode CPU s/GB": encode_s / raw * 1e9,
                f"{noise:g}: decode CPU s/GB": decode_s / raw * 1e9,
            }
        rows.append(row)
    show(f"Compressors, {title}, chunks of a block of {args.block_steps} steps", rows)
    return {str(row["compressor"]): row for row in rows}


def _ingest(args: Namespace, title: str, workload: Workload) -> dict[str, Any]:
    """As fast as they are taken, to durable."""
    plan = _plan(args, workload, args.camera_steps)
    runs = in_turns(args.runs, _recorders(args), record_once, workload, plan)
    images = MB / workload.step_nbytes * workload.num_envs

    def row(name: str, middle: Figures) -> dict[str, Any]:
        return {**recorder_row(name, middle), "images/s": middle["raw MB/s"] * images}

    title = f"Ingest to durable, disk: {title}, {plan.steps} steps"
    return show_medians(title, runs, "raw MB/s", row)


def _paced(args: Namespace, title: str, workload: Workload) -> dict[str, Any]:
    """At the cameras' own rate."""
    plan = _plan(args, workload, args.camera_steps)
    run = partial(in_child, _record_paced)
    runs = in_turns(args.runs, _recorders(args), run, workload, plan)
    title = f"{FPS} frames a second: {title}, {plan.steps} steps"
    return show_medians(title, runs, "CPU % of one processor", recorder_row)


def _recorders(args: Namespace) -> Iterator[str]:
    """Those that were asked for and are installed."""
    for name in RECORDERS:
        with contextlib.suppress(ImportError):
            if name in args.recorders and PEERS[name].load():
                yield name


def _record_paced(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """One recording in a child process; a frame is late if its turn came when it was over."""
    recorder_class, adding, late = PEERS[name].load(), [], 0
    with removed(plan.path):
        meter = Meter()
        recorder = recorder_class(workload, plan)
        start = time.perf_counter()
        for index in range(plan.steps):
            ahead = start + index / FPS - time.perf_counter()
            late += ahead < -1 / FPS
            time.sleep(max(0.0, ahead))
            before = time.perf_counter()
            recorder.add(workload.step(index))
            adding.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        recorder.finish()
        cpu = meter.stop()["cpu_s"]
        compare(recorder_class, workload, plan)
    return {
        "raw MB/s": plan.steps * workload.step_nbytes / MB / seconds,
        "CPU % of one processor": 100 * cpu / seconds,
        "add p50 ms": percentile(adding, 0.5) * 1e3,
        "add p99 ms": percentile(adding, 0.99) * 1e3,
        "late frames": late,
    }


def _read(args: Namespace, title: str, workload: Workload) -> dict[str, Any]:
    """Single images at random, from the page cache."""
    plan = _plan(args, workload, args.camera_steps)
    with recorded(workload, plan):
        runs = in_turns(args.runs, READERS, partial(in_child, _image_ms), workload, plan)
    return show_medians(f"One image: {title}", runs, "ms")


def _image_ms(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """Mean time of an image at random; in a child process."""
    read_one, single = READERS[name](plan.path), replace(plan, block_steps=1)
    return {"ms": random_slice_ms(read_one, "camera", workload, single)}
