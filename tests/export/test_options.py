"""Options: checked when they are made, told to the file, and made again of what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mosaic_collect import export_npy, verify_export
from mosaic_collect.errors import InputError
from mosaic_collect.export import Options, plan_export
from tests.export import stores


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "circle"}, "layout: expected auto, grid or compact, got circle"),
        ({"fields": 5}, "fields: expected names"),
        ({"fields": ["a", 5]}, "fields: expected names"),
        ({"fields": []}, "fields: expected at least one, got none"),
        ({"fields": ["valid_mask"]}, "fields: expected at least one, got none"),
        ({"fields": ["actions", "rewards"]}, "no field 'rewards'"),
        ({"layout": "compact", "fields": ["actions", "valid_mask"]}, "fields: a compact export"),
        ({"max_pairs": 0}, "max_pairs: expected a whole number from 1, got 0"),
        ({"max_pairs": True}, "max_pairs: expected a whole number from 1, got True"),
        ({"max_pairs": 2.5}, "max_pairs: expected a whole number from 1, got 2.5"),
        ({"seed": True}, "seed: expected a whole number from 0, got True"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"skip_damaged": 1}, "skip_damaged: expected True or False, got 1"),
        *(
            ({"layout": "grid", **option}, f"{next(iter(option))}: a grid holds every pair")
            for option in (
                *({"exclude_failed": True}, {"exclude_interrupted": True}, {"max_pairs": 3}),
                *({"skip_damaged": True}, {"steps": "1:2"}, {"split": "train"}),
            )
        ),
        ({"metadata": 5}, "metadata: expected entries with names"),
        ({"metadata": {5: 5}}, "metadata: expected entries with names"),
        ({"metadata": {"a": []}}, "metadata: expected texts and numbers, got others for ['a']"),
        ({"metadata": {"mosaic_collect": 1}}, "metadata: mosaic_collect is what the export says"),
    ],
)
def test_what_makes_no_sense_is_refused(store: str, options: dict[str, Any], words: str) -> None:
    stores.write(store, 3)
    with pytest.raises(InputError) as error:
        plan_export(store, Options(**options))
    assert str(error.value).startswith(words)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"layout: .*; max_pairs: .*; seed: "):
        Options(layout="x", max_pairs=0, seed=-1)


def test_what_is_told_makes_them_again() -> None:
    names = ("actions", "observations")
    options = Options(fields=(name for name in names), max_pairs=np.int64(3), seed=1)
    assert options.as_json()["fields"] == ["actions", "observations"]
    assert Options(**options.as_json()) == Options(fields=names, max_pairs=3, seed=1)
    assert type(options.max_pairs) is int
    assert "metadata" not in options.as_json()


@pytest.mark.parametrize("layout", ["grid", "compact"])
def test_a_field_may_be_named_alone(store: str, npy: str, layout: str) -> None:
    stores.write(store, 5)
    report = export_npy(store, npy, layout=layout, fields="actions")
    assert set(report.shapes) - {"valid_mask"} == {"actions"}
    assert verify_export(store, npy).ok


@pytest.mark.parametrize("frozen", [dict, MappingProxyType])
def test_metadata_stand_beside_the_exports_or_in_their_place(
    store: str, npy: str, frozen: type[Mapping]
) -> None:
    stores.write(store, 5, masks=stores.some_masks(4))
    plain = plan_export(store, Options()).write(npy)
    before = stores.load(npy)["metadata"]
    metadata = frozen({"num_trajectories": 77, "num_steps": 3, "robot": "G1", "none": None})
    report = plan_export(store, Options(metadata=metadata)).write(npy)
    assert report.num_pairs == plain.num_pairs, "counted, whatever the file is told to say"
    after = stores.load(npy)["metadata"]
    assert after.pop("mosaic_collect")["options"].pop("metadata") == metadata
    del before["mosaic_collect"]
    assert after == {**before, **metadata}
    assert verify_export(store, npy).ok
