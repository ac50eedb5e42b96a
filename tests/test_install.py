"""Installing this package moves nothing that Isaac Lab or MOSAIC pin; pip's own resolver says so.

Two questions, asked with ``--dry-run``, which reads metadata and installs nothing:

- Have this package's requirements and theirs a solution together? Theirs come as constraints, read
  from the index where Isaac Lab is there.
- What would installing it change where all of theirs is installed? That environment is made of
  names and versions only, for the packages weigh gigabytes.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import helpers

#: What this package needs, and what that needs: all that an installation may add.
OURS = {"numpy", "numcodecs", "crc32c", "tqdm", "typing-extensions"}
# isaacsim-kernel pins this NumPy; torch wants at least this typing-extensions.
SIMULATOR = {"numpy": "==1.26.0", "typing-extensions": "==4.10.0"}


@dataclass(frozen=True)
class Target:
    """One environment that people have.

    Attributes:
        python: Its version.
        published: A requirement whose own requirements the index tells; None: not published.
        known: More of them, by name.
    """

    python: str
    published: str | None
    known: Mapping[str, str]


TARGETS = {
    # Isaac Lab 2.1 is not on the index: MOSAIC's README and its packages' own files.
    "mosaic": Target(
        "3.10",
        None,
        {
            **SIMULATOR,
            "torch": "==2.5.1",
            "torchvision": "==0.20.1",
            "rsl-rl-lib": "==2.3.1",
            "wandb": ">=0.19",
            **dict.fromkeys(("gymnasium", "onnx", "onnxscript", "psutil"), ""),
        },
    ),
    "isaaclab-2.2.0": Target("3.11", "isaaclab[rsl-rl]==2.2.0", SIMULATOR),
    "isaaclab-2.3.2": Target("3.11", "isaaclab[rsl-rl]==2.3.2.post1", SIMULATOR),
}

pytestmark = [pytest.mark.network, pytest.mark.xdist_group("index")]


def pip(*arguments: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run this interpreter's pip, for another environment if one is named."""
    other = [] if python is None else ["--python", python]
    return subprocess.run(
        [
            *(sys.executable, "-m", "pip", *other, "install", "--dry-run", "--quiet"),
            *("--disable-pip-version-check", "--report", "-", *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def chosen(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Metadata of what pip would install, by name."""
    assert done.returncode == 0, done.stderr
    found = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return {canonicalize_name(metadata["name"]): metadata for metadata in found}


def versions(done: subprocess.CompletedProcess[str]) -> dict[str, Version]:
    return {name: Version(metadata["version"]) for name, metadata in chosen(done).items()}


@pytest.fixture(scope="module", autouse=True)
def _index() -> None:
    done = pip("--no-deps", "--ignore-installed", "--retries", "0", "--timeout", "10", "crc32c")
    if done.returncode:
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")


@functools.cache
def ours() -> tuple[str, ...]:
    """What this checkout requires, without extras."""
    metadata = chosen(pip("--no-deps", "--ignore-installed", helpers.REPO))["mosaic-collect"]
    wanted = metadata["requires_dist"]
    return tuple(text for text in wanted if "extra ==" not in text)


@functools.cache
def theirs(name: str) -> dict[str, SpecifierSet]:
    """All that a target's packages require, by name."""
    target = TARGETS[name]
    wanted = {package: SpecifierSet(spec) for package, spec in target.known.items()}
    for text in _published(target):
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": "rsl-rl", "python_version": target.python}):
            package = canonicalize_name(requirement.name)
            wanted[package] = wanted.get(package, SpecifierSet()) & requirement.specifier
    return wanted


def _published(target: Target) -> list[str]:
    if target.published is None:
        return []
    metadata = chosen(pip("--no-deps", *elsewhere(target.python), target.published))
    return list(metadata["isaaclab"]["requires_dist"])


def elsewhere(python: str) -> list[str]:
    """Resolve for a fresh environment of that Python, whatever this one is."""
    return [
        *("--python-version", python, "--only-binary", ":all:"),
        *("--ignore-installed", "--target", "nowhere"),
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_a_fresh_environment_has_a_solution(tmp_path: Path, name: str) -> None:
    wanted = theirs(name)
    pins = tmp_path / "theirs.txt"
    pins.write_text("".join(f"{package}{spec}\n" for package, spec in wanted.items()))
    found = versions(pip("-c", str(pins), *elsewhere(TARGETS[name].python), *ours()))
    assert set(found) <= OURS
    assert found["numpy"] == Version("1.26.0")
    assert all(spec.contains(found[p]) for p, spec in wanted.items() if p in found)


def installed(folder: Path, base: str, packages: Mapping[str, SpecifierSet]) -> str:
    """An environment in which pip sees these packages, and its interpreter."""
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    for package, spec in packages.items():
        version = some_version(spec)
        info = Path(told.stdout.strip()) / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        (info / "INSTALLER").write_text("pip\n")
    return python


def some_version(spec: SpecifierSet) -> str:
    """The lowest of the versions that it names and allows; some low one if it names none."""
    named = sorted(Version(part.version) for part in spec)
    return next(str(v) for v in (*named, Version("1.0"), Version("0.1")) if spec.contains(v))


def base_python(version: str) -> str:
    """An interpreter to make that environment with, or a reason to skip."""
    if sysconfig.get_python_version() == version:
        return sys.executable
    other = Path(helpers.REPO) / f".venv-py{version.replace('.', '')}" / "bin" / "python"
    if not other.exists():
        pytest.skip(f"no Python {version}: scripts/test.sh makes {other.parent.parent.name}")
    return str(other)


@pytest.fixture(scope="module", params=TARGETS)
def environment(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """An interpreter, and the packages that it seems to have."""
    base, packages = base_python(TARGETS[request.param].python), theirs(request.param)
    folder = tmp_path_factory.mktemp("environment") / "venv"
    return installed(folder, base, packages), set(packages)


def test_nothing_that_is_installed_moves(environment: tuple[str, set[str]]) -> None:
    python, packages = environment
    found = versions(pip(*ours(), python=python))
    assert set(found) == OURS - packages
    assert set(found) >= {"numcodecs", "crc32c"}


def test_a_package_that_disturbs_is_seen(environment: tuple[str, set[str]]) -> None:
    python, _ = environment
    assert versions(pip("numpy>=2", python=python))["numpy"].major == 2


def test_the_wheel_has_the_package_and_no_demo(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(helpers.REPO, "mosaic_collect"), source / "mosaic_collect", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(Path(helpers.REPO, name), source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"mosaic_collect/cli.py", "mosaic_collect/look/report.html.jinja"} < {*names}
    wrong = ("demo", "examples", "assets", ".pt", ".npz", "tests")
    assert [name for name in names if any(word in name for word in wrong)] == []
    assert wheel.stat().st_size < 1_000_000
