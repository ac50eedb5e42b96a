"""What is told where Isaac Lab is not, and of options that only it takes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mosaic_collect import TrajectoryDataset
from mosaic_collect.adapters.isaaclab.launch import refused_by_hydra
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError
from tests.helpers import REPO, run_python

WITHOUT = pytest.mark.skipif(find_spec("isaaclab") is not None, reason="isaaclab is installed")
ARGUMENTS = ("--task", "T", "--checkpoint", "c.pt", "--max-steps", "1", "--output", "x.zarr")


@WITHOUT
def test_collect_without_isaaclab_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "--sim", "isaaclab", *ARGUMENTS]) == 2
    told = capsys.readouterr().err
    assert "isaaclab is not installed" in told
    assert "pip install isaaclab" in told


@WITHOUT
def test_the_script_without_isaaclab_says_so_and_still_has_help(tmp_path: Path) -> None:
    def script(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, f"{REPO}/scripts/collect_expert_trajectories.py", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "--student_obs_history" in script("--help").stdout
    told = script("--task", "T", "--motion", "m", "--output_path", "x.npy")
    assert told.returncode == 2
    assert "isaaclab is not installed" in told.stderr


def test_max_steps_or_passes_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [a for a in ARGUMENTS if a not in ("--max-steps", "1")]
    assert main(["collect", "--sim", "isaaclab", *arguments]) == 2
    told = capsys.readouterr().err
    assert "--max-steps: expected a number, or motions and passes, got neither" in told


def test_hydras_own_end_of_the_process_is_an_error() -> None:
    with pytest.raises(InputError, match="Hydra does not take foo=1"), refused_by_hydra(["foo=1"]):
        raise SystemExit(1)
    # Without overrides it is not they that were wrong.
    with pytest.raises(AttributeError), refused_by_hydra([]):
        raise AttributeError


SIGTERM = """
import contextlib, os, signal, sys, types

class AppLauncher:
    '''Closing the app on SIGTERM, which ends the process: isaaclab/app/app_launcher.py.'''
    local_rank = 0
    def __init__(self, flags):
        self.app = types.SimpleNamespace(close=lambda: os._exit(0))
        signal.signal(signal.SIGTERM, lambda number, frame: self.app.close())

@contextlib.contextmanager
def launch_simulation(config, flags):
    AppLauncher(flags)
    yield

def session(generation):
    if generation == "2":
        from mosaic_collect.adapters.isaaclab.launch import Generation2

        return Generation2().session(None)
    from mosaic_collect.adapters.isaaclab.launch import Generation3

    return Generation3().simulating(None, None)

app = types.ModuleType("isaaclab.app")
app.AppLauncher, app.launch_simulation = AppLauncher, launch_simulation
app.add_launcher_args, app.validate_launch = None, lambda config, flags: (None, ())
sys.modules |= {"isaaclab": types.ModuleType("isaaclab"), "isaaclab.app": app}
from mosaic_collect import termination_as_exit
from tests.helpers import add, open_writer

signal.signal(signal.SIGTERM, signal.SIG_DFL)
with termination_as_exit(), session(sys.argv[2]), open_writer(sys.argv[1]) as writer:
    for step in range(10):
        add(writer, step)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@WITHOUT
@pytest.mark.parametrize("generation", ["2", "3"])
def test_sigterm_commits_though_the_launcher_has_a_handler_of_its_own(
    store: str, generation: str
) -> None:
    done = run_python(SIGTERM, store, generation)
    assert done.returncode in (0, 128 + 15), done.stderr
    assert TrajectoryDataset(store).num_steps == 5
