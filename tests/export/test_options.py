"""Options: checked when they are made, told to the file, and made again; what they decide."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mosaic_collect import export_npy, verify_export
from mosaic_collect.errors import InputError
from mosaic_collect.export import Options, plan_export
from mosaic_collect.store.posix import PosixBlobs
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


# -- a decided export, before its first byte -------------------------------------------------------


def test_a_plan_says_what_the_file_will_be_and_writes_it(store: str, npy: str) -> None:
    stores.write(store, 9, masks=stores.some_masks(4))
    plan = plan_export(store, Options(layout="compact"))
    assert f"{plan.num_valid:,} pairs, compact" in plan.size_text
    assert not os.path.exists(npy)
    report = plan.write(npy)
    assert report.num_pairs == plan.num_valid
    assert report.file_nbytes == plan.file.nbytes == os.path.getsize(npy)
    assert plan.write(npy, None).shapes == report.shapes, "it can be written again"


def test_a_plan_is_written_to_no_place_that_is_none(store: str, tmp_path) -> None:
    stores.write(store, 2)
    plan = plan_export(store, Options())
    with pytest.raises(InputError, match="inside the store"):
        plan.write(os.path.join(store, "e.npy"))
    with pytest.raises(InputError, match=r"ending in \.npy"):
        plan.write(tmp_path / "e")


@pytest.mark.parametrize("several", [False, True])
def test_each_root_document_is_read_once(
    tmp_path: Path, npy: str, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In object storage each read is a request."""
    paths = [str(tmp_path / f"{name}.zarr") for name in ("a", "b")[: 1 + several]]
    for path in paths:
        stores.write(path, 9, masks=stores.some_masks(4))
    reads, opened = Counter[str](), PosixBlobs.open

    def counted(self: PosixBlobs, key: str) -> Any:
        if key == "zarr.json":
            reads[self.address] += 1
        return opened(self, key)

    monkeypatch.setattr(PosixBlobs, "open", counted)
    export_npy(paths if several else paths[0], npy, layout="compact", max_pairs=5)
    assert reads == dict.fromkeys(paths, 1)
