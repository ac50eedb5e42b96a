"""Schemas: MOSAIC's fields, defaults, and all problems in one error."""

from __future__ import annotations

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


def test_mosaic_keeps_the_rule_for_missing_action_fields() -> None:
    schema = Schema.mosaic(3, 2)
    defaults = {f.name: f.default for f in schema.fields}
    assert defaults == {
        "observations": None,
        "actions": None,
        "action_mean": "actions",
        "action_sigma": 0.01,
    }


def test_student_observations_are_optional_and_required_once_there() -> None:
    assert "student_observations" not in Schema.mosaic(3, 2).names
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


def test_pair_nbytes_counts_every_stored_field() -> None:
    assert Schema.mosaic(3, 2).pair_nbytes == 4 * (3 + 2 + 2 + 2) + 1 + 8


def test_an_unknown_field_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no field 'obs'.*observations, actions.*trajectory_id"):
        Schema.mosaic(3, 2)["obs"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": "2d"}, "'2d'"),
    ({"name": "a/b"}, "'a/b'"),
    ({"name": "../up"}, "up"),
    ({"name": ""}, "''"),
    ({"name": "x" * 65}, "xxx"),
    ({"name": 7}, "7"),
    ({"name": "a", "dim": 0}, "dim"),
    ({"name": "a", "dim": -1}, "dim"),
    ({"name": "a", "dim": 2.0}, "dim"),
    ({"name": "a", "dim": True}, "dim"),
    ({"name": "a", "dim": 1 << 40}, "dim"),
    ({"name": "a", "dim": (0, 2)}, "dim"),
    ({"name": "a", "dim": (2, -1)}, "dim"),
    ({"name": "a", "dim": (2, 2.0)}, "dim"),
    ({"name": "a", "dim": (2, True)}, "dim"),
    ({"name": "a", "dim": (2, None)}, "dim"),
    ({"name": "a", "dim": (None,)}, "dim"),
    ({"name": "a", "dim": ((2, 3),)}, "dim"),
    ({"name": "a", "dim": (2, (3, 4))}, "dim"),
    ({"name": "a", "dim": "64"}, "dim"),
    ({"name": "a", "dim": {2: 3}}, "dim"),
    ({"name": "a", "dim": (1,) * 9}, "dim must be at most 8"),
    ({"name": "a", "dim": (4096, 4097)}, "16781312 values a row"),
    ({"name": "a", "dim": (1 << 24,) * 8}, "values a row"),
    ({"name": "a", "dim": (1 << 70, 2)}, "dim"),
    ({"name": "a", "dtype": "float128"}, "float128"),
    ({"name": "a", "dtype": "complex64"}, "complex64"),
    ({"name": "a", "dtype": np.float32}, "dtype"),
    ({"name": "a", "dtype": None}, "dtype"),
    # It equals its name, and so could slip through a comparison.
    ({"name": "a", "dim": 2, "dtype": np.dtype("float32")}, "dtype"),
    ({"name": "a", "dtype": np.dtype("float32"), "default": 0.5}, "dtype"),
    ({"name": "valid_mask"}, "valid_mask"),
    ({"name": "trajectory_id", "dtype": "int64"}, "trajectory_id"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match="bad schema.*" + named):
        Schema((Field(**arguments),))


def test_all_problems_of_all_fields_are_told_at_once() -> None:
    bad = Field(name="2d", dim=0, dtype="text"), Field(name="valid_mask"), Field(name="c", dim=-5)
    with pytest.raises(InputError) as caught:
        Schema(bad)
    message = str(caught.value)
    for part in ("'2d'", "dim must be None", "'text'", "valid_mask", "got -5"):
        assert part in message


def test_problems_of_one_field_do_not_hide_those_between_fields() -> None:
    with pytest.raises(InputError) as caught:
        Schema(
            (Field(name="a"), Field(name="A"), Field(name="c", dim=0), Field(name="d", default="x"))
        )
    message = str(caught.value)
    for part in ("twice", "'c'", "default 'x'"):
        assert part in message


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
    assert Field(name="a", dim=()) == Field(name="a")
    assert not Field(name="a", dim=(5,)).has_axes
    assert Field(name="a").width == 1


def test_axes_are_a_difference_in_words() -> None:
    one, other = (Schema((Field(name="rgb", dim=d),)) for d in ((2, 3), (3, 2)))
    (found,) = one.differences(other)
    assert "dim=(2, 3)" in found
    assert "dim=(3, 2)" in found
    assert one.differences(one) == []


def test_a_stand_in_has_the_same_axes() -> None:
    far = Field(name="far", dim=(2, 5), default="depth")
    Schema((Field(name="depth", dim=(2, 5)), far))
    with pytest.raises(InputError, match=r"far.* has another shape"):
        Schema((Field(name="depth", dim=(5, 2)), far))


def test_a_policy_that_sees_no_flat_rows_has_no_observations() -> None:
    schema = Schema.mosaic(None, 2, extra=(Field(name="observations_camera", dim=(3, 4, 4)),))
    names = ("actions", "action_mean", "action_sigma", "observations_camera")
    assert schema.names == names


def test_names_stay_apart_where_case_is_folded() -> None:
    with pytest.raises(InputError, match="twice"):
        Schema((Field(name="reward"), Field(name="Reward")))
    with pytest.raises(InputError, match="Valid_Mask"):
        Schema((Field(name="Valid_Mask"),))


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


def test_defaults_do_not_chain() -> None:
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
    mine = Schema((A, Field(name="b"), Field(name="c", dim=1)))
    other = Schema((A, Field(name="c", dim=2), Field(name="d")))
    words = "; ".join(mine.differences(other))
    assert "b: expected" in words
    assert "d: not in the store" in words
    assert "c: expected" in words
    assert "a: " not in words
    assert mine.differences(mine) == []


def test_another_order_is_a_difference() -> None:
    b = Field(name="b")
    assert "order" in Schema((A, b)).differences(Schema((b, A)))[0]


def test_schemas_are_frozen_and_comparable() -> None:
    schema = Schema.mosaic(3, 2)
    with pytest.raises(AttributeError):
        schema.fields = ()  # type: ignore[misc]
    assert schema == Schema.mosaic(3, 2)
    assert hash(schema) == hash(Schema.mosaic(3, 2))
    assert schema != Schema.mosaic(3, 1)


def test_a_field_by_its_name_alone() -> None:
    assert Field("reward") == Field(name="reward")
    assert Field("rgb", dim=(4, 4)).row_shape == (4, 4)
