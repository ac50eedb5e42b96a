"""The house's rules: each module has a room, imports point one way, heavy packages stay out."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mosaic_collect
from mosaic_collect import errors

PACKAGE = Path(mosaic_collect.__file__).parent
#: The rooms of the house, a line a storey: a module imports from the storeys above its own line and
#: from its own room. Rooms beside each other, "|", know nothing of one another; of "a < b", b may
#: import a. docs/design.md shows the same picture.
ROOMS = (
    "errors < text < checks",
    "store",
    "passes < reading | npyfile | recording",
    "importing < export | look | collection | sampling",
    "mosaic | adapters/rsl_rl",
    "adapters/isaaclab | adapters/mjlab | replay",
    "film | simulators",
    "commands < demo < cli < __main__",
)
#: Who may import torch at import time: all of these rooms, and these modules of others.
TORCH_ROOMS = (
    *("collection", "sampling", "mosaic"),
    *("adapters/rsl_rl", "adapters/isaaclab", "adapters/mjlab"),
)
TORCH = (*("recording.cuda", "replay.check", "replay.policy"),)
#: Who may import what else at import time, beyond the standard library and ``DEPENDENCIES``.
SIMULATORS = {
    *("mjlab", "mujoco", "warp", "rsl_rl", "tensordict"),
    *("isaaclab", "isaaclab_newton", "isaaclab_rl", "isaaclab_tasks"),
    *("gymnasium", "pxr", "mujoco_usd_converter"),
}
WITH_SIMULATORS = (*("adapters.mjlab", "adapters.isaaclab", "film.scene"),)
DEPENDENCIES = {"numpy", "numcodecs", "crc32c", "tqdm"}
#: Optional packages that may be imported inside functions, and where.
OPTIONAL = {
    "examples": ("demo",),
    "zarr": ("reading.dataset", "store.objects"),
    "obstore": ("store.objects",),
    "h5py": ("export.hdf5", "importing.formats"),
    "pyarrow": ("export.parquet", "export.lerobot", "importing.formats"),
    "xarray": ("reading.dataset",),
    "pandas": ("reading.trajectories",),
    "torch": ("checks", "adapters.mjlab.collect"),
    "matplotlib": ("look.canvas",),
    "jinja2": ("look.report",),
    "dask": ("passes.cluster",),
    "distributed": ("passes.cluster",),
    "PIL": ("film.render", "export.lerobot"),
    "imageio_ffmpeg": ("film.render", "export.lerobot"),
    "yaml": ("adapters.rsl_rl.runner_cfg",),
    "wandb": ("commands.script",),
}


@dataclass(frozen=True)
class Import:
    """One import of one module."""

    importer: str
    imported: str
    late: bool  # inside a function

    @property
    def package(self) -> str:
        return self.imported.split(".")[0]


def modules() -> dict[str, Path]:
    """All modules of the package by their name inside it, ``""`` for the package itself."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(p for p in parts if p != "__init__")] = path
    return names


def imports(name: str, path: Path) -> Iterator[Import]:
    """A module's imports at run time."""
    yield from _imports(name, ast.parse(path.read_text()), late=False)


def _imports(name: str, node: ast.AST, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(name, alias.name, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name} imports relatively"
            yield from (Import(name, i, late) for i in _from(child))
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports(name, child, late or inside)


def _from(node: ast.ImportFrom) -> list[str]:
    """``from a import b`` imports the module a.b if there is one, else a."""
    found = []
    for alias in node.names:
        inner = f"{node.module}.{alias.name}".removeprefix("mosaic_collect.")
        found.append(f"mosaic_collect.{inner}" if inner in NAMES else str(node.module))
    return found


NAMES = modules()
ALL = [i for name, path in NAMES.items() for i in imports(name, path)]
OWN = [i for i in ALL if i.package == "mosaic_collect" and i.importer]


def own(imported: str) -> str:
    return imported.removeprefix("mosaic_collect").removeprefix(".")


def stands_for(entry: str, name: str) -> bool:
    return name == entry or name.startswith(entry + ".")


def among(name: str, entries: tuple[str, ...]) -> bool:
    return any(stands_for(e, name) for e in entries)


def places() -> dict[str, tuple[int, int, int]]:
    """Each room's storey, its place there, and that among those it stands in a row with."""
    return {
        room: (storey, side, rank)
        for storey, line in enumerate(ROOMS)
        for side, row in enumerate(line.split(" | "))
        for rank, room in enumerate(row.split(" < "))
    }


PLACES = places()


def room(name: str) -> str:
    """The innermost room that the module lies in by its path."""
    path = name.replace(".", "/") + "/"
    found = max((r for r in PLACES if path.startswith(f"{r}/")), key=len, default=None)
    assert found is not None, f"{name}: lies in no room of ROOMS"
    return found


def may_import(importer: str, imported: str) -> bool:
    """Whether one room may import from another."""
    (storey, *side, rank), (storey2, *side2, rank2) = PLACES[importer], PLACES[imported]
    return storey2 < storey or ((storey2, side2) == (storey, side) and rank2 <= rank)


def test_the_walk_sees_imports() -> None:
    """So that no rule below holds for want of imports."""
    assert len(NAMES) > 25
    assert Import("recording.writer", "mosaic_collect.recording.opening", late=False) in ALL
    assert Import("reading.dataset", "zarr", late=True) in ALL
    assert Import("recording.cuda", "torch", late=False) in ALL


@pytest.mark.parametrize("name", [n for n in NAMES if n])
def test_every_module_has_its_room(name: str) -> None:
    # The adapters' folder holds rooms and is none, so it holds nothing else.
    assert (name == "adapters" and not list(imports(name, NAMES[name]))) or room(name) in PLACES


def test_imports_point_one_way() -> None:
    named = [i for i in OWN if own(i.imported)]  # the package alone is its version
    wrong = {
        (i.importer, own(i.imported))
        for i in named
        if not may_import(room(i.importer), room(own(i.imported)))
    }
    assert wrong == set()


def test_the_rule_tells_the_ways_apart() -> None:
    assert may_import("recording", "store")
    assert may_import("recording", "recording")
    assert may_import("checks", "errors")
    assert not may_import("errors", "checks")
    assert not may_import("reading", "recording")
    assert not may_import("store", "reading")


def test_the_docs_show_the_same_picture() -> None:
    """A fenced block whose lines are a number, the rooms, and perhaps words behind some spaces."""
    design = (PACKAGE.parent / "docs" / "design.md").read_text()
    blocks = re.findall(r"^```text\n(.*?)^```$", design, re.M | re.S)
    (picture,) = [b for b in blocks if b.startswith("0  ")]
    drawn = re.findall(r"^(\d)  (\S.*?)(?: {3,}.*)?$", picture, re.M)
    assert drawn == [(str(storey), line) for storey, line in enumerate(ROOMS)]


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {n: set() for n in NAMES}
    for i in OWN:
        graph[i.importer].add(own(i.imported))
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_torch_stays_where_tensors_are() -> None:
    found = [i.importer for i in ALL if i.package == "torch" and not i.late]
    assert [n for n in found if n not in TORCH and room(n) not in TORCH_ROOMS] == []


def test_simulators_stay_in_their_adapters() -> None:
    wrong = [i for i in ALL if i.package in SIMULATORS and not i.late]
    assert [i for i in wrong if not i.importer.startswith(WITH_SIMULATORS)] == []


def test_the_modules_named_here_are_there() -> None:
    """So that no exception outlives what it was made for."""
    named = {*TORCH, *(n for names in OPTIONAL.values() for n in names)}
    assert named <= set(NAMES)


def test_the_rest_needs_only_the_dependencies() -> None:
    allowed = {*DEPENDENCIES, *SIMULATORS, "torch", "mosaic_collect", *sys.stdlib_module_names}
    assert [i for i in ALL if not i.late and i.package not in allowed] == []


def test_imports_inside_functions_are_for_optional_packages() -> None:
    """Or for modules of our own that need one."""
    late = [i for i in ALL if i.late and i.importer and i.package not in SIMULATORS]
    wrong = [
        i
        for i in late
        if not among(i.importer, OPTIONAL.get(i.package, ()))
        and not (i.package == "mosaic_collect" and needs_more(own(i.imported)))
    ]
    assert wrong == []


@functools.cache
def needs_more(name: str) -> bool:
    """Whether importing the module imports more than the dependencies."""
    seen, left = {name}, [name]
    while left:
        importer = left.pop()
        now = [i for i in ALL if i.importer == importer and not i.late]
        if any(i.package in {"torch", *SIMULATORS} for i in now):
            return True
        inner = {own(i.imported) for i in now if i.package == "mosaic_collect"} - seen
        seen |= inner
        left += inner
    return False


@pytest.mark.parametrize(
    "name",
    ["TrajectoryWriter", "TrajectoryDataset", "verify_store", "export_npy", "import_npy"],
)
def test_the_core_loads_nothing_heavy(name: str) -> None:
    """What the sources say, seen once more in a fresh interpreter."""
    code = (
        f"import sys\nfrom mosaic_collect import {name}\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert "numpy" in loaded.stdout.split()
    heavy = {"torch", "zarr", "xarray", "dask", "distributed", "pandas", "matplotlib", *SIMULATORS}
    assert not heavy & set(loaded.stdout.split())


#: What other work is written against: every error, and these names,
PUBLIC = {
    *("TrajectoryWriter", "WriterStats", "termination_as_exit", "Field", "Robot", "Schema"),
    *("TrajectoryDataset", "LazyArray", "interrupted_ids", "summarize", "Summary"),
    *("Trajectories", "Trajectory", "store_statistics", "StoreStatistics", "FieldStatistics"),
    *("Pictures", "report_page", "store_findings", "Finding"),
    *("copy_store", "CopyReport"),
    *("run_collect", "run_trial", "MjlabCollectOptions", "IsaacLabCollectOptions"),
    *("export_npy", "export_store", "ExportReport", "import_file"),
    *("import_npy", "ImportReport"),
    *("verify_store", "verify_export", "VerifyReport", "ReplayReport", "DaskEngine"),
}
#: and those, which may need torch.
PUBLIC_WITH_TORCH = {
    *("replay_check", "BatchLoader", "CollectResult", "save_student"),
    *("ExpertTrajectoryCollector", "StudentObsBuilder", "create_student_obs_builder_from_env_cfg"),
}
ERRORS = {n for n, kind in vars(errors).items() if isinstance(kind, type)}


def test_the_public_names() -> None:
    assert set(mosaic_collect.__all__) == PUBLIC | PUBLIC_WITH_TORCH | ERRORS
    assert set(mosaic_collect.__all__) <= set(dir(mosaic_collect))
    assert re.fullmatch(r"\d+\.\d+\.\d+", mosaic_collect.__version__)


def test_the_list_for_type_checkers_is_the_list() -> None:
    """Every import of it is a public name, each as itself, which says that it is public."""
    listed = {
        (node.module, alias.name, alias.asname)
        for node in ast.walk(ast.parse((PACKAGE / "__init__.pyi").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert listed == {(home, name, name) for name, home in mosaic_collect._HOMES.items()}


@pytest.mark.parametrize("name", mosaic_collect.__all__)
def test_a_public_name_is_what_it_says(name: str) -> None:
    assert needs_more(own(mosaic_collect._HOMES[name])) == (name in PUBLIC_WITH_TORCH)
    if name in PUBLIC_WITH_TORCH:
        pytest.importorskip("torch", reason="torch is not installed, which this name needs")
    assert getattr(mosaic_collect, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Writer'"):
        _ = mosaic_collect.Writer  # type: ignore[attr-defined]


def test_the_exception_tree_is_as_drawn() -> None:
    """The picture at the top of errors.py: four columns a level, then the name and a builtin."""
    drawn: dict[str, tuple[str, ...]] = {}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        found = re.match(r"([│├└─ ]*)(\w+Error)\b(?: +\((\w+)\))?", line)
        if found is None:
            continue
        indent, name, builtin = found.groups()
        path[len(indent) // 4 :] = [name]
        parents = path[-2:-1] + ([builtin] if builtin else [])
        drawn[name] = tuple(parents) or ("Exception",)
    kinds = [getattr(errors, name) for name in ERRORS]
    assert {k.__name__: tuple(b.__name__ for b in k.__bases__) for k in kinds} == drawn
    assert len(drawn) == 21


def test_every_error_can_be_caught_as_one_of_ours_and_keeps_its_words() -> None:
    for name in ERRORS:
        error = getattr(errors, name)("what, expected and got")
        assert isinstance(error, errors.MosaicCollectError)
        assert str(error) == "what, expected and got"


#: Modules that are still a private part of their only importer, and class names that still have two
#: meanings. Both lists only shrink: an entry that is no longer true must go.
NOT_YET_FOLDED: set[str] = set()
TWO_MEANINGS: set[str] = set()


def test_small_modules_have_more_than_one_importer() -> None:
    """A module below 120 lines with one importer, in its own folder, belongs into that importer."""
    importers: dict[str, set[str]] = {name: set() for name in NAMES}
    for i in (i for i in ALL if i.package == "mosaic_collect"):
        importers[own(i.imported)].add(i.importer)
    private = {
        name
        for name, path in NAMES.items()
        if path.name != "__init__.py" and len(path.read_text().splitlines()) < 120
        if len(importers[name]) == 1 and NAMES[next(iter(importers[name]))].parent == path.parent
    }
    assert private == NOT_YET_FOLDED


def test_a_class_name_has_one_meaning() -> None:
    """No two classes of the package have the same name."""
    names = Counter(
        node.name
        for path in NAMES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == TWO_MEANINGS


@pytest.mark.parametrize("name", NAMES, ids=lambda n: n or "package")
def test_every_module_says_what_it_is(name: str) -> None:
    tree = ast.parse(NAMES[name].read_text())
    assert ast.get_docstring(tree)


def test_modules_import() -> None:
    """All that need no optional package."""
    for name in NAMES:
        if name and not needs_more(name) and name != "__main__":
            importlib.import_module(f"mosaic_collect.{name}")


def test_the_library_logs_and_does_not_print() -> None:
    speaking = ("cli", "commands", "demo")
    found = [
        name
        for name, path in NAMES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert [n for n in found if not among(n, speaking)] == []
