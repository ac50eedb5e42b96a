"""The pickle around the arrays: plain opcodes, and nothing that one loader alone understands."""

from __future__ import annotations

import io
import os
import pickletools

import numpy as np
from hypothesis import example, given, strategies as st

from mosaic_collect.npyfile.layout import ArraySpec, plan_file
from mosaic_collect.npyfile.read import scan_npy

SPECS = {
    "observations": ((3, 2, 4), "float32"),
    "valid_mask": ((3, 2), "bool"),
    "trajectory_id": ((3, 2), "int64"),
    "byte": ((3, 2, 1), "uint8"),
    "half": ((6, 1, 1), "float16"),
    "double": ((6, 1, 1), "float64"),
    "none": ((0, 1, 5), "float32"),
}
PLAIN = {
    "metadata": {
        "text": "ä\u4e2d\U0001f916 \x00",
        "number": -(2**80),
        "float": 0.1,
        "flags": [True, False, None],
        "nested": {"list": [1, [2, [3]]], "empty": {}},
    }
}


def file_bytes(specs: dict[str, ArraySpec], plain: dict[str, object]) -> tuple[bytes, dict]:
    """A whole file with arrays of counting numbers, and these arrays."""
    plan = plan_file(specs, plain)
    data = bytearray(plan.nbytes)
    for offset, piece in plan.pieces:
        data[offset : offset + len(piece)] = piece
    arrays = {}
    for name, spec in specs.items():
        values = np.arange(np.prod(spec[0], dtype=int)).reshape(spec[0]).astype(spec[1])
        arrays[name], stored = values, plan.arrays[name]
        assert (stored.shape, stored.dtype, stored.nbytes) == (*spec, values.nbytes)
        data[stored.offset : stored.offset + stored.nbytes] = values.tobytes()
    return bytes(data), arrays


def test_every_byte_belongs_to_one_piece_or_one_array() -> None:
    plan = plan_file(SPECS, PLAIN)
    spans = [(offset, len(piece)) for offset, piece in plan.pieces]
    spans += [(array.offset, array.nbytes) for array in plan.arrays.values()]
    end = 0
    for offset, nbytes in sorted(spans):
        assert offset == end
        end = offset + nbytes
    assert end == plan.nbytes


def test_the_pickle_is_well_formed_and_names_what_all_numpys_know() -> None:
    data, _ = file_bytes(SPECS, PLAIN)
    with io.BytesIO(data) as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        pickled = file.read()
    out = io.StringIO()
    pickletools.dis(pickled, out)  # checks stack, marks and memo, too
    opcodes = [(op.name, argument) for op, argument, _ in pickletools.genops(pickled)]
    assert opcodes[0] == ("PROTO", 4)
    assert opcodes[-1][0] == "STOP"
    named = {argument for name, argument in opcodes if name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    names = {name for name, _ in opcodes}
    assert not names & {"STACK_GLOBAL", "FRAME", "MEMOIZE", "INST", "OBJ", "NEWOBJ", "BYTEARRAY8"}
    assert sum(name == "BINBYTES8" for name, _ in opcodes) == len(SPECS)


def test_the_header_is_numpys_own() -> None:
    data, _ = file_bytes({}, {})
    assert data[:6] == b"\x93NUMPY"
    assert data[6:8] == b"\x01\x00"
    length = int.from_bytes(data[8:10], "little")
    assert (10 + length) % 64 == 0
    assert data[10 + length - 1 : 10 + length] == b"\n"
    assert np.load(io.BytesIO(data), allow_pickle=True).item() == {}


def test_an_array_beyond_4_gib_is_planned_without_its_bytes() -> None:
    spec = ((1_000_000, 4096, 770), "float32")
    plan = plan_file({"observations": spec, "actions": ((1, 1, 1), "float32")}, {})
    observations, actions = plan.arrays.values()
    assert observations.nbytes == 1_000_000 * 4096 * 770 * 4
    assert plan.nbytes > observations.nbytes
    assert sum(len(piece) for _, piece in plan.pieces) < 1000
    assert actions.offset > observations.offset + observations.nbytes


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
_SPEC = st.tuples(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from(["float32", "float64", "bool", "int8", "uint16", "int64"]),
)


@example(SPECS, PLAIN["metadata"])
@given(st.dictionaries(st.text(min_size=1), _SPEC, max_size=3), _PLAIN)
def test_loads_as_written_whatever_the_names_shapes_and_metadata(
    tmp_path_factory, specs: dict, plain
) -> None:
    specs.pop("metadata", None)
    data, arrays = file_bytes(specs, {"metadata": plain})
    loaded = np.load(io.BytesIO(data), allow_pickle=True)
    assert loaded.shape == ()
    content = loaded.item()
    assert list(content) == [*specs, "metadata"]
    assert content.pop("metadata") == plain
    for name, want in arrays.items():
        found = content[name]
        assert type(found) is np.ndarray
        assert (found.shape, found.dtype) == (want.shape, want.dtype)
        assert found.tobytes() == want.tobytes()
        assert found.flags.c_contiguous
        assert found.flags.writeable

    path = os.path.join(tmp_path_factory.getbasetemp(), "any.npy")
    with open(path, "wb") as file:
        file.write(data)
    scanned = scan_npy(path)
    assert scanned.plain == {"metadata": plain}
    for name, stored in scanned.arrays.items():
        found = data[stored.offset : stored.offset + stored.nbytes]
        assert found == arrays[name].tobytes()
        assert stored.shape == arrays[name].shape
