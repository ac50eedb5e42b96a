"""Environments beside the one that runs the tests, made when a test first asks for them.

Each is a virtual environment ``.venv-NAME`` in the checkout that holds only what differs: a path
file lets it see this interpreter's packages (torch, NumPy, pytest), its own come first. What cannot
be made, offline for instance, is a reason to skip.

``python -m tests.envs`` makes all of them, or those that are named.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# tensordict and what it imports; GitPython and what it imports: every rsl_rl does at import.
_TENSORDICT = ("tensordict==0.10.0", "pyvers", "importlib_metadata", "orjson", "cloudpickle")
_GIT = ("GitPython", "gitdb", "smmap")
# torch's tensorboard writer, which rsl_rl 5 imports whatever it logs to.
_TENSORBOARD = ("tensorboard", "protobuf", "absl-py")


@dataclass(frozen=True)
class Environment:
    """One recipe.

    Attributes:
        name: Its folder is ``.venv-`` and this.
        packages: Installed without their dependencies, so that no second torch comes along.
        options: More of pip's.
        warns: Warnings of these packages' own code, none of this project's doing.
    """

    name: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    warns: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return ROOT / f".venv-{self.name}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def make(self) -> None:
        """Make it unless it is there; safe to call from several processes.

        Raises:
            RuntimeError: It could not be made; the message says why.
        """
        locks = ROOT / ".venv-locks"
        locks.mkdir(exist_ok=True)
        with open(locks / self.name, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stamp = self.folder / "made-of"
            recipe = "\n".join((sys.executable, *self.packages, *self.options))
            if stamp.is_file() and stamp.read_text() == recipe:
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", "--without-pip", str(self.folder))
            site = Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))
            (site / "zz_main.pth").write_text(sysconfig.get_path("purelib") + "\n")
            _run(
                *(sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet"),
                *("--disable-pip-version-check", "--no-deps", "--no-compile", *self.options),
                *self.packages,
            )
            stamp.write_text(recipe)

    def require(self) -> None:
        """Make it; skip the test if it cannot be made."""
        import pytest  # which who only makes environments may not have

        try:
            self.make()
        except (OSError, RuntimeError) as error:
            pytest.skip(f"no environment {self.name}: {error}")

    def pytest(self, folder: str) -> None:
        """Run the tests of a folder inside; skip if the environment cannot be made."""
        self.require()
        path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
        ignored = [word for line in self.warns for word in ("-W", f"ignore:{line}")]
        result = subprocess.run(
            [str(self.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored, folder],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", INSIDE: self.name},
            capture_output=True,
            text=True,
            check=False,
        )
        sys.stdout.write(result.stdout + result.stderr)
        assert result.returncode == 0, f"{folder} failed in {self.name}:\n{result.stdout[-6000:]}"


#: Tests within an environment look here for its name.
INSIDE = "MOSAIC_COLLECT_ENVIRONMENT"

RSL_RL = {
    version: Environment(f"rsl-rl-{version}", (f"rsl-rl-lib=={version}", *_TENSORDICT, *extra))
    for version, extra in (
        ("2.3.3", _GIT),
        ("3.1.2", _GIT),
        ("4.0.1", _GIT),
        ("5.4.2", (*_GIT, *_TENSORBOARD)),
    )
}
# What Isaac Lab's managers, environments and wrappers import for good; the simulator, and what only
# it needs (Warp, SciPy, trimesh, ...), has stand-ins in tests/contract/inside/stand_ins.py.
_ISAAC = (
    *("prettytable==3.3.0", "wcwidth", "gymnasium==1.2.0", "farama-notifications"),
    *("toml", "packaging"),
)
# Isaac Lab decorates its mathematics so; torch tells whoever imports it.
_SCRIPTS = "`torch.jit.script:DeprecationWarning"  # how the message begins
ISAACLAB = {
    version: Environment(
        f"isaaclab-{version}",
        (f"isaaclab=={version}", f"rsl-rl-lib=={rsl_rl}", *_ISAAC, *_TENSORDICT, *_GIT),
        warns=(_SCRIPTS,),
    )
    for version, rsl_rl in (("2.2.0", "2.3.3"), ("2.3.2.post1", "3.1.2"))
}
# The whole of it, physics included, on Newton's MuJoCo-Warp: no Isaac Sim, no GPU. It declares
# Python 3.12, and runs on 3.11; of what it declares, here is what Newton and rsl_rl need.
ISAACLAB3 = Environment(
    "isaaclab3",
    (
        *("isaaclab==3.0.0", "rsl-rl-lib==5.5.1", "newton==1.6.1", "newton-usd-schemas==0.6.0"),
        *("warp-lang==1.17.0", "mujoco==3.12.0", "mujoco-warp==3.12.0", "usd-exchange==3.0.1"),
        # A robot's MJCF becomes the USD that Isaac Lab reads.
        *("mujoco-usd-converter==0.6.1", "numpy-stl", "python-utils", "tinyobjloader==2.0.0rc13"),
        *("hydra-core==1.3.8", "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3"),
        *("gymnasium==1.2.0", "farama-notifications", "lazy_loader"),
    ),
    options=("--ignore-requires-python",),
    warns=(
        _SCRIPTS,
        "warp.config.quiet is deprecated:DeprecationWarning",
        "newton.actuators.Clamping is deprecated:DeprecationWarning",
        "Newton shape color replacement:FutureWarning",
        "Articulation.set_joint_position_target_index is deprecated:DeprecationWarning",
    ),
)
# Readers of exports. torchvision has a stand-in in tests/export/read_lerobot.py.
LEROBOT = Environment(
    "lerobot",
    (
        *("lerobot==0.4.4", "numpy==2.2.6", "huggingface_hub==0.35.3", "hf-xet", "jsonlines"),
        *("draccus==0.10.0", "mergedeep", "typing_inspect", "mypy_extensions", "toml"),
        *("pyyaml-include==1.4.1", "deepdiff", "orderly-set", "einops", "av", "accelerate"),
        *("safetensors", "gymnasium==1.2.0", "farama-notifications"),
    ),
)
ROBOMIMIC = Environment("robomimic", ("robomimic==0.3.0", "termcolor"))
ALL = (*RSL_RL.values(), *ISAACLAB.values(), ISAACLAB3, LEROBOT, ROBOMIMIC)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.SubprocessError as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise RuntimeError("; ".join(words[-2:])) from error


if __name__ == "__main__":
    for environment in [e for e in ALL if e.name in (sys.argv[1:] or [e.name])]:
        environment.make()
        sys.stdout.write(f"{environment.python}\n")
