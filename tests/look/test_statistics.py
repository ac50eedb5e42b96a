"""Statistics of a store against NumPy's of all its valid rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_collect import TrajectoryDataset, store_statistics
from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.look.measure import draw_sample
from mosaic_collect.look.statistics import QUANTILES, oddities, rank_error, statistics_text
from mosaic_collect.reading.moments import Moments
from mosaic_collect.reading.summary import stored_nbytes
from mosaic_collect.reading.table import Cell
from mosaic_collect.store.schema import Field, Schema
from tests import helpers
from tests.export import stores

N, T = 7, 40
SCHEMA = stores.STUDENT.with_ends()


def noise(step: int, rows: dict[str, Any]) -> None:
    """Values whose mean is far from 0, a dead and a constant feature, NaN and infinity."""
    generator = np.random.default_rng(step)
    for value in rows.values():
        if value.dtype.kind == "f":
            value[...] = 1000 + generator.standard_normal(value.shape)
    rows["observations"][:, 1] = 0
    rows["observations"][:, 2] = 5
    if step == 11:
        rows["actions"][2, 0] = np.nan
        rows["actions"][3] = np.inf
        rows["actions"][4, 1] = -np.inf


@pytest.fixture
def noisy(store: str, small_chunks: int) -> TrajectoryDataset:
    assert small_chunks
    stores.write(
        store, T, schema=SCHEMA, num_envs=N, block_steps=6, masks=stores.some_masks(N), edit=noise,
        metadata={"terms": {"observations": [{"name": "a", "dim": 1}, {"name": "b", "dim": 2}]}},
    )  # fmt: skip
    return TrajectoryDataset(store)


def columns(dataset: TrajectoryDataset, name: str) -> list[np.ndarray]:
    """The finite values of each feature over valid rows."""
    rows = dataset.read(name)[dataset.read("valid_mask")].astype(float)
    rows = rows.reshape(len(rows), -1)
    return [column[np.isfinite(column)] for column in rows.T]


def test_figures_are_numpys(noisy: TrajectoryDataset) -> None:
    seen = []
    found = store_statistics(noisy, progress=seen.append)
    assert sum(seen) == N * T
    assert found.num_read == found.num_valid == noisy.num_valid
    assert list(found.fields) == list(SCHEMA.names)
    for name, field in found.fields.items():
        for i, values in enumerate(columns(noisy, name)):
            assert field.moments.count[i] == len(values)
            assert field.mean[i] == pytest.approx(values.mean(), rel=1e-12)
            assert field.std[i] == pytest.approx(values.std(), rel=1e-9, abs=1e-12)
            assert (field.moments.low[i], field.moments.high[i]) == (values.min(), values.max())
            want = np.quantile(values, QUANTILES)
            np.testing.assert_allclose(field.quantiles()[:, i], want, rtol=1e-6)
    assert found.rank_error == 0


def test_what_is_odd(noisy: TrajectoryDataset) -> None:
    fields = store_statistics(noisy).fields
    assert fields["observations"].dead.tolist() == [False, True, False]
    assert fields["observations"].constant.tolist() == [False, True, True]
    valid = noisy.read("valid_mask")[11]
    rows = noisy.read("actions")[11][valid]
    assert fields["actions"].moments.nan.tolist() == np.isnan(rows).sum(axis=0).tolist()
    assert fields["actions"].moments.inf.tolist() == np.isinf(rows).sum(axis=0).tolist()
    assert list(oddities(fields["observations"])) == [
        "observations: always 0: b[0]",
        "observations: constant: b[1]",
    ]


@pytest.mark.parametrize("name", ["bool", "int8", "uint64", "float16", "float64"])
def test_other_dtypes(store: str, name: str) -> None:
    schema = Schema((Field(name="x", dim=2, dtype=name), Field(name="y", dtype=name)))
    dataset = helpers.record(store, 9, schema=schema, masks=True)
    for field in store_statistics(dataset).fields.values():
        for i, values in enumerate(columns(dataset, field.name)):
            assert field.mean[i] == pytest.approx(values.mean())
            assert field.std[i] == pytest.approx(values.std())


def test_nothing_to_measure(store: str) -> None:
    for steps, masks in ((0, None), (3, lambda step: np.zeros(4, bool))):
        path = f"{store}{steps}"
        stores.write(path, steps, masks=masks)
        found = store_statistics(path)
        assert found.num_read == 0
        assert np.isnan(found.fields["actions"].mean).all()
        assert np.isnan(found.fields["actions"].quantiles()).all()
        json.dumps(found.to_json(), allow_nan=False)
        assert "0 valid pairs" in statistics_text(found)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_findings_need_can_be_left_out(noisy: TrajectoryDataset, threads: int) -> None:
    whole, less = (
        store_statistics(noisy, threads=threads, over_time=over_time) for over_time in (True, False)
    )
    assert whole.compared.any()
    assert not less.compared.any()
    assert {**less.to_json(), "seconds": 0} == {**whole.to_json(), "seconds": 0}


def test_an_even_part(store: str, small_chunks: int) -> None:
    assert small_chunks
    helpers.record(store, 60, num_envs=16, block_steps=5)
    dataset = TrajectoryDataset(store)
    part = store_statistics(dataset, max_pairs=200)
    assert 100 <= part.num_read <= 300
    again = store_statistics(dataset, max_pairs=200)
    assert (part.fields["actions"].mean == again.fields["actions"].mean).all()
    everything = store_statistics(dataset, max_pairs=10**6)
    assert everything.num_read == 960
    with pytest.raises(InputError, match="max_pairs"):
        store_statistics(dataset, max_pairs=0)
    with pytest.raises(InputError, match="no field 'x'"):
        store_statistics(dataset, ["x"])


def test_damage_is_told(noisy: TrajectoryDataset) -> None:
    stores.flip(f"{noisy.path}/actions/c.1.0.0", 3)
    with pytest.raises(CorruptStoreError):
        store_statistics(noisy)


def test_parts_add_up() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 3)) * 1e-3 + 1e5
    rows[5, 0], rows[6, 1] = np.nan, -np.inf
    whole = Moments.of(rows)
    parts = [Moments.of(rows[a:b]) for a, b in ((0, 1), (1, 1), (1, 40), (40, 100))]
    total = Moments.nothing(3)
    for part in parts:
        total += part
    for name in ("count", "nan", "inf", "low", "high"):
        assert (getattr(total, name) == getattr(whole, name)).all()
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(total.var, whole.var, rtol=1e-5)
    np.testing.assert_allclose(total.var[2], rows[:, 2].var(), rtol=1e-5)


def regions(*counts: int) -> dict[Cell, int]:
    """Regions with so many rows."""
    return {Cell(block, range(1), range(1)): count for block, count in enumerate(counts)}


def test_a_sample_is_uniform_and_knows_its_rows() -> None:
    size, rows = 50, 2000
    hits = np.zeros(rows)
    for seed in range(200):
        drawn = draw_sample(regions(*[100] * 20), size, seed)
        places, found = (np.concatenate(each) for each in zip(*drawn.values(), strict=True))
        assert places.tolist() == list(range(size))
        held = np.repeat([region.block for region in drawn], [len(p) for p, _ in drawn.values()])
        hits[100 * held + found] += 1
    assert hits.sum() == 200 * size
    halves = hits.reshape(2, -1).sum(axis=1)
    assert abs(halves[0] - halves[1]) < 5 * np.sqrt(200 * size)


def test_a_sample_of_few_rows_is_all_of_them() -> None:
    drawn = [(p.tolist(), r.tolist()) for p, r in draw_sample(regions(2, 0, 2, 1), 10).values()]
    assert drawn == [([0, 1], [0, 1]), ([2, 3], [0, 1]), ([4], [0])]
    assert draw_sample(regions(0), 10) == {}
    assert rank_error(6, 6) == 0
    assert rank_error(10_000, 10**8) == pytest.approx(0.0163, abs=1e-4)


def test_rsl_rls_normaliser_takes_it(noisy: TrajectoryDataset) -> None:
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("rsl_rl.modules")
    found = store_statistics(noisy).to_json()["rsl_rl_normalizer"]
    assert set(found) == {"observations", "student_observations"}
    module = modules.EmpiricalNormalization(5)
    state = {k: torch.tensor(v) for k, v in found["student_observations"].items()}
    module.load_state_dict(state)
    assert module.count == noisy.num_valid
    rows = torch.as_tensor(noisy.read("student_observations")[noisy.read("valid_mask")])
    normal = module.eval()(rows)
    assert normal.mean(dim=0).abs().max() < 0.05
    other = modules.EmpiricalNormalization(5).train()
    other.update(rows)
    np.testing.assert_allclose(module.std.numpy(), other.std.numpy(), rtol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_quantiles_leave_out_what_is_not_finite(store: str, rows: int) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, 4)).astype("f4")
    values[::2, 1] = np.nan
    values[-1:, 2] = -np.inf
    values[:, 3] = np.nan
    with helpers.open_writer(store, 1, Schema([Field(name="x", dim=4)])) as writer:
        for row in values:
            writer.add_step(x=row[None])
    found = store_statistics(store).fields["x"].quantiles(QUANTILES)
    for i in range(4):
        finite = values[:, i][np.isfinite(values[:, i])].astype("f8")
        want = np.quantile(finite, QUANTILES) if len(finite) else np.full(len(QUANTILES), np.nan)
        np.testing.assert_allclose(found[:, i], want, rtol=1e-12)


def test_steps_that_are_only_claimed(store: str) -> None:
    """No list is made of them: the first shard that is missing ends it."""
    helpers.record(store, 4)
    helpers.edit_state(store, committed_steps=1 << 39, num_valid=1 << 40)
    code = (
        "import resource, sys; from mosaic_collect import store_statistics\n"
        "from mosaic_collect.errors import CorruptStoreError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for pairs in (None, 1000, 10**6):\n"
        "    try: store_statistics(sys.argv[1], max_pairs=pairs)\n"
        "    except CorruptStoreError: pass\n"
        "    else: raise SystemExit('nothing was missed')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 200_000, grown\n"
    )
    done = helpers.run_python(code, store)
    assert done.returncode == 0, done.stderr
    assert sum(stored_nbytes(TrajectoryDataset(store).view).values()) > 0


def test_the_command(cli, noisy: TrajectoryDataset) -> None:
    before = os.listdir(os.path.dirname(noisy.path))
    assert cli("stats", noisy.path).code == 0
    assert os.listdir(os.path.dirname(noisy.path)) == before, "a file that nobody asked for"
    output = noisy.path.removesuffix(".zarr") + ".json"
    neighbour = Path(f"{output}.tmp")
    neighbour.write_text("someone's")
    done = cli("stats", noisy.path, "-o", output)
    assert (done.code, done.err) == (0, "")
    infinite = "actions: all 2 features hold infinity"
    for words in ("observations", "  b ", f"{output}: written", infinite):
        assert words in done.out
    with open(output) as file:
        told = json.load(file, parse_constant=pytest.fail)
    assert told["num_read"] == noisy.num_valid
    assert told["fields"]["observations"]["dead"] == [1]
    printed = cli("stats", noisy.path, "--json", "--fields", "actions", "--pairs", "60")
    assert list(json.loads(printed.out)["fields"]) == ["actions"]
    others = [n for n in os.listdir(neighbour.parent) if n.endswith(".tmp")]
    assert (others, neighbour.read_text()) == ([neighbour.name], "someone's")
    cli("stats", noisy.path, "--fields", "x").failed("no field 'x'")
    cli("stats", noisy.path, "--pairs", "-1").failed("--pairs: expected a whole number from 1")
    cli("stats", noisy.path, "-o", "no/such.json").failed("--output: expected a folder at")
