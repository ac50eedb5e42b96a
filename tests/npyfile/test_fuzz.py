"""Altered files: an error of ours or a result that holds together, and nothing else."""

from __future__ import annotations

import time
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mosaic_collect import export_npy
from mosaic_collect.errors import CorruptExportError
from mosaic_collect.look.inspect import summarize, summary_text
from mosaic_collect.npyfile.read import scan_npy
from tests.export import stores
from tests.npyfile import pickles

#: Opcodes of pickle, so that random programs are not all refused at their first byte.
_OPCODES = b"(.0124FIJKLMNPQRSTUVXabcdeghijlopqrstu}]){)\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d"
_OPCODES += b"\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A file of ours and one of ``np.save``."""
    folder = tmp_path_factory.mktemp("fuzz")
    store, ours, theirs = (str(folder / name) for name in ("s.zarr", "ours.npy", "theirs.npy"))
    stores.write(store, 2, num_envs=2, masks=stores.some_masks(2))
    export_npy(store, ours, layout="grid")
    np.save(theirs, stores.load(ours))
    return [Path(path).read_bytes() for path in (ours, theirs)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("fuzzed") / "any.npy")


def look(path: str, data: bytes) -> None:
    """Scan and summarise ``data``; what is accepted must hold together."""
    with open(path, "wb") as file:
        file.write(data)
    start = time.thread_time()
    try:
        found = scan_npy(path)
        summary_text(summarize(path))
    except CorruptExportError as error:
        assert len(str(error)) < 5000  # noqa: PT017  either outcome will do
    else:
        for stored in found.arrays.values():
            assert 0 <= stored.offset <= stored.offset + stored.nbytes <= len(data)
            assert stored.nbytes == prod(stored.shape) * stored.dtype.itemsize
            assert stored.dtype.kind in "biuf"
    assert time.thread_time() - start < 5


_DICT = st.sampled_from([(b"\x80\x04", b""), (pickles.BEGIN, pickles.END)])
_EDIT = st.tuples(
    st.sampled_from(["flip", "put", "insert", "delete", "copy", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.integers(1, 40),
)


def altered(data: bytes, edits: list[tuple[str, float, int, int]]) -> bytes:
    made = bytearray(data)
    for what, place, byte, length in edits:
        at = int(place * len(made))
        if not made:
            break
        if what == "flip":
            made[at] ^= 1 << byte % 8
        elif what == "put":
            made[at] = _OPCODES[byte % len(_OPCODES)]
        elif what == "insert":
            made[at:at] = bytes([byte]) * length
        elif what == "delete":
            del made[at : at + length]
        elif what == "copy":
            made[at:at] = made[at : at + length]
        else:
            del made[at:]
    return bytes(made)


@settings(max_examples=400)
@given(which=st.booleans(), edits=st.lists(_EDIT, min_size=1, max_size=4))
def test_an_altered_file(files: list[bytes], path: str, which: bool, edits: list) -> None:
    look(path, altered(files[which], edits))


def test_every_bit_flipped_of_all_but_the_values(files: list[bytes], path: str) -> None:
    for data in files:
        for at in range(min(len(data), 700)):
            for bit in (0, 5, 7):
                made = bytearray(data)
                made[at] ^= 1 << bit
                look(path, bytes(made))


@settings(max_examples=600)
@given(st.lists(st.sampled_from([bytes([b]) for b in _OPCODES]) | st.binary(max_size=6)), _DICT)
def test_a_random_program(path: str, program: list[bytes], around: tuple[bytes, bytes]) -> None:
    """By itself, or within the dict."""
    begin, end = around
    look(path, pickles.header() + begin + b"".join(program) + end)


@settings(max_examples=200)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin1")))
def test_a_random_header(path: str, about: str) -> None:
    encoded = about.encode("latin1", "replace")
    head = b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded
    look(path, head + pickles.dump({"metadata": {}}))
