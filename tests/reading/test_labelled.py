"""Terms by name, the xarray dataset, and the card for notebooks."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from mosaic_collect import Schema, TrajectoryDataset
from mosaic_collect.errors import InputError
from tests import helpers
from tests.export import stores

SCHEMA = Schema.mosaic(obs_dim=5, action_dim=2, student_obs_dim=6).with_ends()
TERMS = {
    "observations": [{"name": "pos", "dim": 2, "frames": 1}, {"name": "vel", "dim": 3}],
    "student_observations": [{"name": "pos", "dim": 2, "frames": 3}],
}


@pytest.fixture
def told(store: str) -> TrajectoryDataset:
    """Ten steps of four envs whose observations' terms are known."""
    stores.write(
        store, 10, schema=SCHEMA, ends={4: [0]}, falls={5: [1]}, masks=stores.some_masks(4),
        metadata={"terms": TERMS, "robot": "<b>G1</b> & more"},
    )  # fmt: skip
    return TrajectoryDataset(store)


def test_terms(told: TrajectoryDataset) -> None:
    names = {field: [t.name for t in terms] for field, terms in told.terms.items()}
    assert names == {"observations": ["pos", "vel"], "student_observations": ["pos"]}
    helpers.assert_same(told.term("observations", "vel")[...], told["observations"][..., 2:])
    whole = told.read("student_observations")
    helpers.assert_same(told.term("student_observations", "pos")[2:], whole[2:, :, 4:])
    history = told.term("student_observations", "pos", history=True)
    assert history.shape == (10, 4, 3, 2)
    helpers.assert_same(history[...], whole.reshape(10, 4, 3, 2))
    assert history[3, 1, -1].tolist() == whole[3, 1, 4:].tolist()
    (term,) = told.terms["student_observations"]
    assert term.label == "pos (2 x 3 frames)"
    assert (term.columns, term.newest) == (slice(0, 6), slice(4, 6))


def test_terms_that_are_not_there(told: TrajectoryDataset) -> None:
    with pytest.raises(InputError, match="observations: no term 'x'; the terms are: pos, vel"):
        told.term("observations", "x")
    with pytest.raises(InputError, match="no field 'observation'; the fields are: observations"):
        told.term("observation", "pos")
    with pytest.raises(InputError, match="actions: no term 'x'; the terms are: none"):
        told.term("actions", "x")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (3, "expected an object of fields, got 3"),
        ({"actions": 7}, "actions: expected entries of name, dim, frames and columns, got 7"),
        ({"actions": [{"name": "a", "dim": 0}]}, "expected entries of name"),
        ({"actions": [{"name": "a", "dim": True}]}, "expected entries of name"),
        ({"actions": [{"name": "a", "dim": 2, "columns": ["x"]}]}, "expected entries of name"),
        ({"actions": [{"name": "a", "dim": 3}]}, "expected widths that make up 2, got 3"),
    ],
)
def test_terms_that_make_no_sense(store: str, terms: Any, words: str) -> None:
    dataset = helpers.record(store, 2, metadata={"terms": terms})
    with pytest.raises(InputError, match=words):
        dataset.terms  # noqa: B018
    assert "metadata" in dataset._repr_html_()


def test_a_store_without_terms_or_steps(store: str) -> None:
    dataset = helpers.record(store, 0, metadata={"terms": {"gone": 1}})
    assert dataset.terms == {}
    assert any("0 ended" in text for text in texts(dataset._repr_html_()))


class TestXarray:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        for package in ("zarr", "xarray", "dask"):
            pytest.importorskip(package)

    @pytest.mark.parametrize("chunks", [None, {}, "auto", {"step": 6}])
    def test_coordinates_and_values(self, told: TrajectoryDataset, chunks: Any) -> None:
        data = told.to_xarray(chunks)
        assert data.step.values.tolist() == list(range(10))
        assert data.env.values.tolist() == list(range(4))
        assert (data.observations.chunks is None) == (chunks is None)
        at = data.observations.sel(step=7, env=2)
        assert at.values.tolist() == told["observations"][7, 2].tolist()
        for name in told.fields:
            helpers.assert_same(data[name].values, told.read(name), name)

    def test_terms_by_name(self, told: TrajectoryDataset) -> None:
        data = told.to_xarray()
        helpers.assert_same(
            data.observations.sel(observations_term="vel").values, told["observations"][..., 2:]
        )
        frames = data.student_observations_frame.values
        assert frames.tolist() == [-2, -2, -1, -1, 0, 0]
        newest = data.student_observations[..., frames == 0]
        helpers.assert_same(newest.values, told.term("student_observations", "pos")[...])

    def test_it_can_be_saved_as_netcdf(self, told: TrajectoryDataset, tmp_path: Any) -> None:
        pytest.importorskip("scipy")
        import xarray

        data = told.to_xarray()
        data.to_netcdf(tmp_path / "x.nc", engine="scipy")
        with xarray.open_dataset(tmp_path / "x.nc", engine="scipy") as saved:
            assert saved.observations.values.tolist() == told["observations"][...].tolist()
            assert json.loads(saved.attrs["mosaic_collect"])["committed_steps"] == 10

    def test_third_party_arrays_of_several_stores(self, tmp_path: Any) -> None:
        """One without a step axis is another in each store: it is in no joined dataset."""
        import zarr

        paths = [f"{tmp_path}/{number}.zarr" for number in (1, 2)]
        for number, path in enumerate(paths, 1):
            helpers.record(path, 4)
            group = zarr.open_group(path, mode="a")
            for name, axes in (("friction", ("env",)), ("wind", ("step", "env"))):
                shape = (4,) * len(axes)
                group.create_array(name, data=np.full(shape, number), dimension_names=axes)
            with pytest.warns(UserWarning, match="Consolidated metadata"):
                zarr.consolidate_metadata(path)
        joined = TrajectoryDataset(paths)
        assert "friction" not in joined.to_xarray()
        assert joined.to_xarray().wind.values[:, 0].tolist() == [1] * 4 + [2] * 4
        tree = joined.to_datatree()
        assert [tree[f"{n}.zarr/friction"].values.tolist() for n in (1, 2)] == [[1] * 4, [2] * 4]

    def test_a_snapshot_stays_one(self, store: str) -> None:
        with helpers.open_writer(store) as writer:
            helpers.add(writer, 0, 1, 2, 3)
            writer.commit()
            dataset = TrajectoryDataset(store)
            helpers.add(writer, 4, 5)
            writer.commit()
            assert dataset.to_xarray().sizes["step"] == 4


class Page(HTMLParser):
    """Checks that tags close in order, and gathers texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("br", "meta", "link", "img", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def texts(page: str) -> list[str]:
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    return parser.texts


def test_the_card(told: TrajectoryDataset) -> None:
    page = told._repr_html_()
    found = texts(page)
    for words in (*told.fields, "complete", "1, the last from", "10 x 4 envs", "3 x 4 x 5"):
        assert any(words in text for text in found), words
    assert any("2 ended, 1 of them failed, 4 without an end" in text for text in found)
    assert "<b>G1</b> & more" in found
    assert "<b>G1" not in page
    assert "http" not in page


def test_the_card_of_a_damaged_store(told: TrajectoryDataset) -> None:
    stores.flip(f"{told.path}/trajectory_end/c.1.0", 3)
    assert any("damaged: " in text for text in texts(told._repr_html_()))
