"""Schemas: MOSAIC's fields, defaults, and all problems in one error."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Field, Schema
from mosaic_collect.errors import InputError
from mosaic_collect.store.schema import DTYPES


def test_mosaic_has_the_fields_of_an_expert_file_in_order() -> None:
    schema = Schema.mosaic(obs_dim=154, action_dim=29, student_obs_dim=770)
    dims = {f.name: f.dim for f in schema.fields}
    assert dims == {
        "observations": 154,
        "student_observations": 770,
        "actions": 29,
        "action_mean": 29,
        "action_sigma": 29,
    }
    assert list(dims) == list(schema.names)
    assert {f.dtype for f in schema.fields} == {"float32"}


def test_mosaic_keeps_the_rule_for_missing_fields() -> None:
    schema = Schema.mosaic(3, 2)
    defaults = {f.name: f.default for f in schema.fields}
    assert defaults == {
        "observations": None,
        "actions": None,
        "action_mean": "actions",
        "action_sigma": 0.01,
    }
    assert Schema.mosaic(3, 2, 7)["student_observations"].default is None


def test_extra_fields_come_last() -> None:
    extra = Field(name="reward"), Field(name="contact", dim=4, dtype="bool")
    schema = Schema.mosaic(3, 2, extra=extra)
    assert schema.fields[-2:] == extra
    assert Schema.mosaic(3, 2).with_fields(*extra) == schema


def test_mask_and_ids_are_stored_behind_the_callers_fields() -> None:
    schema = Schema.mosaic(3, 2)
    assert [f.name for f in schema.stored] == [*schema.names, "valid_mask", "trajectory_id"]
    assert schema["valid_mask"].dtype == "bool"
    assert schema["trajectory_id"].dtype == "int64"
    assert schema.pair_nbytes == 4 * (3 + 2 + 2 + 2) + 1 + 8
    with pytest.raises(InputError, match=r"no field 'obs'.*observations, actions.*trajectory_id"):
        schema["obs"]


#: Bad arguments of a field, and what the error names.
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(({"name": name}, re.escape(f"name {name!r}")) for name in ("2d", "", "x" * 65, 7)),
    # What would lead out of the store.
    *(
        ({"name": name}, re.escape(f"name {name!r}"))
        for name in ("a/b", "../up", "..", "/etc", ".hidden", "x\0", "x\n")
    ),
    *(
        ({"name": "a", "dim": dim}, "dim")
        for dim in (
            *(0, -1, 2.0, True, 1 << 40, "64", {2: 3}),
            *((0, 2), (2, -1), (2, 2.0), (2, True), (2, None), (None,), (1 << 70, 2)),
            *(((2, 3),), (2, (3, 4))),
        )
    ),
    ({"name": "a", "dim": (1,) * 9}, "dim must be at most 8"),
    ({"name": "a", "dim": (4096, 4097)}, "16781312 values a row"),
    ({"name": "a", "dim": (1 << 24,) * 8}, "values a row"),
    *(({"name": "a", "dtype": name}, name) for name in ("float128", "complex64")),
    *(({"name": "a", "dtype": dtype}, "dtype") for dtype in (np.float32, None)),
    # It equals its name, and so could slip through a comparison.
    ({"name": "a", "dim": 2, "dtype": np.dtype("float32")}, "dtype"),
    ({"name": "a", "dtype": np.dtype("float32"), "default": 0.5}, "dtype"),
    *(({"name": name}, name) for name in ("valid_mask", "Valid_Mask")),
    ({"name": "trajectory_id", "dtype": "int64"}, "trajectory_id"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match="bad schema.*" + named):
        Schema((Field(**arguments),))


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (
            [Field("2d", dim=0, dtype="text"), Field("valid_mask"), Field("c", dim=-5)],
            ("'2d'", "dim must be None", "'text'", "valid_mask", "got -5"),
        ),
        (
            [Field("a"), Field("A"), Field("c", dim=0), Field("d", default="x")],
            ("twice", "'c'", "default 'x'"),
        ),
    ],
    ids=["of all fields", "of one field and between fields"],
)
def test_all_problems_are_told_at_once(bad: list[Field], parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        Schema(tuple(bad))
    assert all(part in str(caught.value) for part in parts)


def test_mosaic_tells_all_bad_dims_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Schema.mosaic(obs_dim=0, action_dim=2.5, student_obs_dim=-1)  # type: ignore[arg-type]
    for part in ("obs_dim", "action_dim", "2.5", "student_obs_dim", "-1"):
        assert part in str(caught.value)


def test_numpys_whole_numbers_are_widths() -> None:
    schema = Schema.mosaic(np.int64(3), np.uint8(2), student_obs_dim=np.int32(4))
    assert schema == Schema.mosaic(3, 2, student_obs_dim=4)
    assert all(type(f.dim) is int for f in schema.fields), "they go into JSON"


@pytest.mark.parametrize("dim", [(64, 48, 3), [64, 48, 3], (np.int64(64), np.uint8(48), 3)])
def test_a_row_of_several_axes(dim: Any) -> None:
    field = Field(name="rgb", dim=dim, dtype="uint8")
    assert field.dim == field.row_shape == (64, 48, 3)
    assert field.width == field.row_nbytes == 64 * 48 * 3
    assert field.has_axes
    assert all(type(n) is int for n in field.dim), "they go into JSON"
    assert Schema((field,)).pair_nbytes == field.row_nbytes + 1 + 8
    assert hash(field) == hash(Field(name="rgb", dim=(64, 48, 3), dtype="uint8"))


def test_each_shape_has_one_spelling() -> None:
    """So ``dim=array.shape[1:]`` gives what is written by hand, whatever the array."""
    assert Field(name="a", dim=(5,)) == Field(name="a", dim=5)
    assert Field(name="a", dim=()) == Field("a")
    assert not Field(name="a", dim=(5,)).has_axes
    assert Field(name="a").width == 1


def test_a_policy_that_sees_no_flat_rows_has_no_observations() -> None:
    schema = Schema.mosaic(None, 2, extra=(Field(name="observations_camera", dim=(3, 4, 4)),))
    names = ("actions", "action_mean", "action_sigma", "observations_camera")
    assert schema.names == names


def test_a_schema_needs_a_field_and_only_fields() -> None:
    with pytest.raises(InputError, match="no fields"):
        Schema(())
    with pytest.raises(InputError, match="expected a Field, got str"):
        Schema(("observations",))  # type: ignore[arg-type]


A = Field(name="a", dim=2)
BAD_DEFAULTS = [
    Field(name="b", dim=2, default="missing"),
    Field(name="b", dim=2, default="b"),
    Field(name="b", dim=3, default="a"),
    Field(name="b", dim=2, dtype="float64", default="a"),
    Field(name="b", dim=2, default=True),
    Field(name="b", dim=2, default=[0.0, 0.0]),  # type: ignore[arg-type]
    Field(name="b", dtype="uint8", default=300),
    Field(name="b", dtype="uint8", default=-1),
    Field(name="b", dtype="int32", default=0.5),
    Field(name="b", dtype="bool", default=2),
    Field(name="b", default=float("nan")),
    Field(name="b", default=float("inf")),
    Field(name="b", default=10**400),
]


@pytest.mark.parametrize("bad", BAD_DEFAULTS, ids=lambda f: f"{f.dtype}={f.default!r:.10}")
def test_a_default_is_a_number_that_the_field_can_hold_or_a_required_field_alike(
    bad: Field,
) -> None:
    with pytest.raises(InputError, match="default"):
        Schema((A, bad))


def test_a_default_stands_in_for_a_field_alike_and_defaults_do_not_chain() -> None:
    far = Field(name="far", dim=(2, 5), default="depth")
    Schema((Field(name="depth", dim=(2, 5)), far))
    with pytest.raises(InputError, match=r"far.* has another shape"):
        Schema((Field(name="depth", dim=(5, 2)), far))
    second = Field(name="b", dim=2, default="a")
    with pytest.raises(InputError, match=r"'c'.*default 'b' names no required field"):
        Schema((A, second, Field(name="c", dim=2, default="b")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_values_are_of_the_fields_kind_and_floats_can_be_nan(dtype: str) -> None:
    fill = Field(name="a", dtype=dtype).fill_value
    assert np.asarray(fill).dtype.kind in {"bool": "b", "float": "f"}.get(
        dtype[:5].rstrip("0123456789"), "i"
    )
    assert fill == 0
    assert Field(name="a", dtype=dtype).is_float == (np.dtype(dtype).kind == "f")
    assert Schema.mosaic(3, 2)["trajectory_id"].fill_value == -1  # which is no id


def test_differences_name_each_field() -> None:
    b = Field(name="b")
    mine = Schema((A, b, Field(name="c", dim=(2, 3))))
    other = Schema((A, Field(name="c", dim=(3, 2)), Field(name="d")))
    words = "; ".join(mine.differences(other))
    assert re.search(r"b: expected .*d: not in the store; c: expected .*\(2, 3\).*\(3, 2\)", words)
    assert "a: " not in words
    assert mine.differences(mine) == []
    for changed in (Field(name="b", default=0.25), Field(name="b", dtype="float64")):
        (words,) = Schema((A, b)).differences(Schema((A, changed)))
        assert re.search(r"b: expected .*(0\.25|float64)", words)
    assert "order" in Schema((A, b)).differences(Schema((b, A)))[0]


def test_schemas_are_frozen_and_comparable() -> None:
    schema = Schema.mosaic(3, 2)
    with pytest.raises(AttributeError):
        schema.fields = ()  # type: ignore[misc]
    assert schema == Schema.mosaic(3, 2)
    assert hash(schema) == hash(Schema.mosaic(3, 2))
    assert schema != Schema.mosaic(3, 1)
