"""What a user may write for a store's place, in every call that takes one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mosaic_collect as mc
from mosaic_collect.errors import InputError
from mosaic_collect.look.inspect import summarize
from mosaic_collect.store.ranks import blobs_at
from tests import helpers
from tests.export import stores

URLS = (
    "file:///tmp/run.zarr",
    "https://host/run.zarr",
    "memory:///run.zarr",
    Path("s3://bucket/run.zarr"),  # which becomes s3:/bucket/run.zarr
)
#: Each call of a store's place, by the name that its error begins with.
STORES: list[tuple[str, Callable[[Any], Any]]] = [
    ("path", lambda path: mc.TrajectoryWriter(path, helpers.SMALL, 2)),
    ("path", mc.TrajectoryDataset),
    ("path", mc.verify_store),
    ("path", summarize),
    ("store", lambda path: mc.export_npy(path, "e.npy")),
    ("store", lambda path: mc.verify_export([path], "e.npy")),
    ("store", lambda path: mc.import_npy("e.npy", path)),
]
#: And of a file of this machine.
FILES: list[tuple[str, Callable[[Any], Any]]] = [
    ("path", lambda path: mc.export_npy("made.zarr", path)),
    ("npy", lambda path: mc.verify_export("made.zarr", path)),
    ("npy", lambda path: mc.import_npy(path, "new.zarr")),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a store and its export, and an empty working directory with the same."""
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work):
        os.mkdir(folder)
        stores.write(str(folder / "made.zarr"), 4)
        mc.export_npy(folder / "made.zarr", folder / "e.npy")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


@pytest.mark.parametrize(
    ("name", "call", "url"),
    [(*call, url) for call in STORES for url in URLS]
    + [(*call, url) for call in FILES for url in (*URLS, "s3://bucket/run.npy")],
    ids=lambda value: None if callable(value) else str(value),
)
def test_a_url_is_refused_and_never_a_folder(
    home: Path, name: str, call: Callable[[Any], Any], url: Any
) -> None:
    before = sorted(os.listdir())
    with pytest.raises(InputError, match=rf"^{name}: .*got the URL {os.fspath(url)}"):
        call(url)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("kind", [str, Path, None])
def test_the_tilde_is_the_home_and_a_url_is_taken_wherever_a_path_is(
    home: Path, request: pytest.FixtureRequest, kind: Callable[[str], Any] | None
) -> None:
    if kind is None:
        where = full = request.getfixturevalue("s3").removesuffix("/expert.zarr")
        npy = "~/run.npy"
    else:
        where, full, npy = "~", str(home), kind("~/run.npy")
    store, again = ((kind or str)(f"{where}/{name}.zarr") for name in ("run", "again"))
    with mc.TrajectoryWriter(store, helpers.SMALL, 2) as writer:
        helpers.add(writer, 0, 1)
    assert writer.path == f"{full}/run.zarr"
    with mc.TrajectoryWriter(store, resume="auto") as writer:
        helpers.add(writer, 2, 3)
    dataset = mc.TrajectoryDataset(f"{store}/")
    assert (dataset.path, dataset.num_steps) == (writer.path, 4)
    assert mc.verify_store(store).ok
    assert (mc.summarize(store).path, mc.summarize(store).kind) == (writer.path, "store")
    assert mc.export_npy(store, npy).path == str(home / "run.npy")
    assert mc.verify_export([store], npy).ok
    with pytest.raises(InputError, match="the same store"):
        mc.export_npy([store, f"{store}/"], npy)
    assert mc.import_npy(npy, again).store == f"{full}/again.zarr"
    assert mc.import_npy(npy, again, resume=True).first_step == 4
    assert sorted(os.listdir()) == ["e.npy", "made.zarr"]


def test_a_store_that_is_called_like_one_is_found_by_its_folder(home: Path) -> None:
    os.mkdir("s3:")
    shutil.copytree("made.zarr", "s3:/made.zarr")
    assert mc.TrajectoryDataset("./s3:/made.zarr").num_steps == 4
    assert mc.TrajectoryDataset("x:y.zarr/../made.zarr").num_steps == 4


def test_a_zipped_store_is_told_how_to_be_read(home: Path) -> None:
    path = shutil.make_archive("run.zarr", "zip", "made.zarr")
    for call in (mc.TrajectoryDataset, mc.verify_store, summarize, blobs_at):
        with pytest.raises(InputError, match=f"the zip archive {path}: unpack it first, such as"):
            call(path)
    shutil.unpack_archive(path, "unpacked")
    assert mc.TrajectoryDataset("unpacked").num_steps == 4
