"""``objects``: object storage beside plain puts of the same bytes; commits, opening, requests."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

from benchlib.ingest import recorder_row
from benchlib.measure import MB, in_child
from benchlib.peers import PEERS, Plan
from benchlib.recording import compare, metered, removed
from benchlib.scale import add_until, commit_milliseconds, tiny_writer
from benchlib.table import in_turns, show, show_medians
from benchlib.workload import Workload, make_workload

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
_RECORDERS = ("mosaic-threads", "mosaic_collect")
_PUTS = 4  # at a time, as the writer's
_COMMITS = 30


def objects(args: Namespace) -> dict[str, Any]:
    """The subcommand."""
    try:
        with _server():
            results = {
                "ingest": _ingest(args),
                "commits": [in_child(_commits, place) for place in _places(args, "commits")],
                "opening": [
                    in_child(_opening, place, blocks)
                    for blocks in args.object_blocks
                    for place in _places(args, f"opening-{blocks}")
                ],
            }
    except ImportError as error:
        print(f"objects: {error}, left out", flush=True)
        return {"left out": str(error)}
    show("A commit of one step, three fields", results["commits"])
    show("Opening, three fields", results["opening"])
    return results


@contextmanager
def _server() -> Iterator[None]:
    """An S3 server in a process of its own, with a bucket, to which the environment leads."""
    from importlib.util import find_spec

    for package in ("moto", "obstore"):  # which no process is to hold that forks
        if find_spec(package) is None:
            raise ImportError(f"{package} is not installed")
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = "http://{}:{}".format(*process.stdout.readline().split())
        os.environ.update(
            AWS_ENDPOINT_URL=url,
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_REGION="us-east-1",
        )
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        yield
    finally:
        process.kill()
        process.communicate()


def _places(args: Namespace, name: str) -> list[str]:
    return [os.path.join(args.folder, f"{name}.zarr"), f"s3://bucket/{name}.zarr"]


def _ingest(args: Namespace) -> dict[str, Any]:
    workload = make_workload(args.num_envs, args.dims, args.noise)
    numbers = count()

    def run(name: str) -> dict[str, float]:
        plan = Plan.of(args, f"s3://bucket/{next(numbers)}.zarr", args.steps)
        return dict(in_child(_record, name, workload, plan))

    runs = in_turns(args.runs, _RECORDERS, run)
    size = f"{args.num_envs} environments, {args.dims} dims, {args.steps} steps"
    title = f"Recording to an S3 server on this machine: {size}, medians of {args.runs}"
    return show_medians(title, runs, "stored MB/s", recorder_row)


def _record(name: str, workload: Workload, plan: Plan) -> dict[str, float]:
    """One recording, then plain puts of the objects that it made."""
    asked = _counted()
    figures, requests = metered(name, workload, plan), sum(asked.values())
    compare(PEERS[name].load(), workload, plan)
    raw = plan.steps * workload.step_nbytes
    stored, seconds = _plain_puts(plan.path)
    return {
        "raw MB/s": raw / MB / figures["wall_s"],
        "stored MB/s": stored / MB / figures["wall_s"],
        "plain puts MB/s": stored / MB / seconds,
        "share of plain": seconds / figures["wall_s"],
        "CPU s per raw GB": figures["cpu_s"] / raw * 1e9,
        "peak RAM MB": figures["peak_mb"],
        "requests per raw GB": requests / raw * 1e9,
    }


def _counted() -> Counter[str]:
    """Counts every request by its kind from now on."""
    from mosaic_collect.store.objects import ObjectBlobs

    asked: Counter[str] = Counter()
    ask = ObjectBlobs.ask

    def counting(self: Any, request: str, *args: Any, **options: Any) -> Any:
        asked[request] += 1
        return ask(self, request, *args, **options)

    ObjectBlobs.ask = counting  # type: ignore[method-assign]
    return asked


def _plain_puts(url: str) -> tuple[int, float]:
    """Bytes of a store's objects, and the seconds in which they are put once more."""
    import obstore
    from obstore.store import from_url

    options = {"allow_http": True}
    store, other = (from_url(u, client_options=options) for u in (url, f"{url}.plain"))
    keys = [entry["path"] for page in obstore.list(store) for entry in page]
    content = {key: bytes(obstore.get(store, key).bytes()) for key in keys}
    start = time.perf_counter()
    with ThreadPoolExecutor(_PUTS) as pool:
        for _ in pool.map(lambda key: obstore.put(other, key, content[key]), keys):
            pass
    seconds = time.perf_counter() - start
    for each in (store, other):
        obstore.delete(each, keys)
    return sum(map(len, content.values())), seconds


def _commits(place: str) -> dict[str, Any]:
    """What ``commit`` takes behind one step, and what one request takes."""
    asked = _counted()
    with removed(place):
        writer = tiny_writer(place)
        add_until(writer, 1)
        writer.commit()
        asked.clear()
        commit_ms = commit_milliseconds(writer, _COMMITS, 1)
        requests = sum(asked.values()) / _COMMITS
        writer.close()
        probes = []
        for _ in range(_COMMITS):
            start = time.perf_counter()
            writer._pipeline.store.blobs.find("zarr.json")
            probes.append(time.perf_counter() - start)
    return {
        "where": _where(place),
        "commit ms": commit_ms,
        "requests": requests,
        "one request ms": statistics.median(probes) * 1e3,
    }


def _opening(place: str, blocks: int) -> dict[str, Any]:
    """A store of so many blocks: to read, and to go on with."""
    from mosaic_collect import TrajectoryDataset, TrajectoryWriter

    asked = _counted()
    figures: dict[str, Any] = {"where": _where(place), "blocks": blocks}

    def timed(what: str, call: Any) -> Any:
        asked.clear()
        start = time.perf_counter()
        found = call()
        figures[f"{what} ms"] = (time.perf_counter() - start) * 1e3
        figures[f"{what} requests"] = sum(asked.values())
        return found

    with removed(place):
        writer = tiny_writer(place)
        add_until(writer, blocks * writer.block_steps)
        writer.close()
        dataset = timed("open", lambda: TrajectoryDataset(place))
        middle = dataset.num_steps // 2
        timed("one step", lambda: dataset.read("observations", middle, middle + 1))
        timed("resume", lambda: TrajectoryWriter(place, resume=True, buffer_mb=1)).close()
    return figures


def _where(place: str) -> str:
    return "S3 server" if place.startswith("s3:") else "disk"
