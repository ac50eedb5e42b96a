"""Whole numbers, threads and files to be written, as callers give them; errors in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mosaic_collect
from mosaic_collect.checks import is_whole, output_path, processors, thread_count, whole
from mosaic_collect.errors import InputError, WriteError
from mosaic_collect.text import reason


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_a_whole_number_becomes_pythons(value: Any) -> None:
    assert is_whole(value, 3, 3)
    assert type(whole(value, "n", 3, 3)) is int
    assert whole(value, "n", 0) == 3


@pytest.mark.parametrize(
    "value", [True, False, np.True_, 3.0, np.float32(3), "3", None, [3], np.array([3]), 1, 6]
)
def test_others_are_refused(value: Any) -> None:
    assert not is_whole(value, 2, 5)
    with pytest.raises(InputError) as refused:
        whole(value, "num_envs", 2, 5)
    assert str(refused.value) == f"num_envs: expected a whole number of 2..5, got {value!r}"


def test_without_a_most_the_least_is_named() -> None:
    assert whole(1 << 70, "seed", 0) == 1 << 70
    with pytest.raises(InputError, match="seed: expected a whole number from 0, got -1"):
        whole(-1, "seed", 0)


def test_threads_are_as_many_as_processors_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for have, want in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=have: set(range(n)), raising=False)
        assert (processors(), thread_count()) == (have, want)
    assert thread_count(9) == 9
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (processors(), thread_count()) == (1, 1)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "x", True])
def test_other_numbers_of_threads_are_refused(threads: Any) -> None:
    with pytest.raises(InputError, match="threads: expected a whole number from 1, got "):
        thread_count(threads)


def test_a_file_to_be_written_needs_its_folder(tmp_path: Path) -> None:
    assert output_path(tmp_path / "page.html", "output") == str(tmp_path / "page.html")
    with pytest.raises(InputError, match=f"output: expected a folder at {tmp_path}/no, found none"):
        output_path(tmp_path / "no" / "page.html", "output")
    with pytest.raises(InputError, match="output: expected a file's name, got the folder"):
        output_path(tmp_path, "output")
    with pytest.raises(InputError, match="output: expected a path on this machine, got the URL"):
        output_path("s3://bucket/page.html", "output")


def test_errors_of_the_system_are_told_without_their_number() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "a.npy")
    assert reason(missing) == "a.npy: no such file or directory"
    assert reason(missing, "a.npy") == "no such file or directory"
    assert reason(OSError(errno.EIO, "Input/output error")) == "input/output error"
    assert reason(WriteError.because("a.zarr: is full", missing)) == "a.zarr: is full"
    assert reason(ValueError("so")) == "so"


def test_dir_shows_public_names_alone() -> None:
    names = [name for name in dir(mosaic_collect) if not name.startswith("__")]
    assert sorted(names) == mosaic_collect.__all__
