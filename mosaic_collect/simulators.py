"""Collections and trials of policies in mjlab and Isaac Lab: one entrance to both.

A simulator is imported when a function needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mosaic_collect.adapters.isaaclab.options import IsaacLabCollectOptions
from mosaic_collect.adapters.mjlab.options import MjlabCollectOptions
from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.checks import needed
from mosaic_collect.collection.motion_queue import MotionQueue
from mosaic_collect.collection.motions import find_motions
from mosaic_collect.errors import InputError, MissingDependencyError

#: Simulator -> options of its collections. ``adapters.NAME.collect`` runs them.
SIMULATORS: dict[str, type[RecordOptions]] = {
    "mjlab": MjlabCollectOptions,
    "isaaclab": IsaacLabCollectOptions,
}

if TYPE_CHECKING:
    import torch

    from mosaic_collect.adapters.rsl_rl.collect import CollectResult
    from mosaic_collect.recording.writer import TrajectoryWriter

_MJLAB = "collecting in mjlab needs it: pip install 'mosaic-collect[mjlab]'"


def require_simulator(options: RecordOptions) -> None:
    """Refuse a collection in mjlab without mjlab; nothing is imported.

    Raises:
        MissingDependencyError: The simulator is not installed.
    """
    if isinstance(options, MjlabCollectOptions) and find_spec("mjlab") is None:
        raise MissingDependencyError(_MJLAB)


def run_collect(
    options: RecordOptions,
    on_step: Callable[[TrajectoryWriter], object] | None = None,
    on_end: Callable[[CollectResult], object] | None = None,
) -> CollectResult:
    """Run the policy of a checkpoint in a simulated task, and record it into a store.

    Args:
        options: Options of the collection. Their class selects the simulator.
        on_step: Called with the writer after each step, for a progress bar or a limit. An exception
            in it ends the run; the recorded steps are committed.
        on_end: Called with the result. Isaac Sim may end the process afterwards.

    Raises:
        MissingDependencyError: The simulator is not installed.
        InputError: A bad option or motion; or a row with NaN or infinity that stops the run.
        StoreMismatchError: On resume, task, checkpoint, motions, observations or acting differ.
        StoreError: The store cannot be opened.
        WriteError: The store cannot be written.
    """
    name = next((name for name, kind in SIMULATORS.items() if isinstance(options, kind)), None)
    if name is None:
        known = " or ".join(kind.__name__ for kind in SIMULATORS.values())
        raise InputError(f"options: expected {known}, got {type(options).__name__}")
    words = _MJLAB if name == "mjlab" else f"collecting in {name} needs its packages"
    with needed(words, opengl=True):
        adapter = importlib.import_module(f"mosaic_collect.adapters.{name}.collect")
    result: CollectResult = adapter.run_collect(options, on_step, on_end)
    return result


def run_trial(
    options: MjlabCollectOptions,
    students: Mapping[str, torch.nn.Module] | None = None,
    noise: Sequence[float] = (0.0,),
    trajectories: int = 32,
    on_step: Callable[[], object] | None = None,
) -> dict[str, list[int]]:
    """Run an expert and its students side by side in mjlab, without recording.

    Args:
        options: Options of a collection: task, checkpoint, motions, seed, device and the student's
            observations are those of the trial.
        students: Name -> network from the student's observations to actions.
        noise: Standard deviations of the noise added to each action, in its units.
        trajectories: Number of trajectories per policy and noise.
        on_step: Called after each step.

    Returns:
        Policy -> number of trajectories that reached their end, for each noise. The policies are
        "expert" and the students.

    Raises:
        MissingDependencyError: mjlab is not installed.
        InputError: A bad option, motion or number of trajectories, or a student named "expert".
    """
    networks = dict(students or {})
    if "expert" in networks or not noise or trajectories < 1:
        raise InputError(
            "run_trial: expected students of other names than 'expert', one noise or more and at "
            f"least 1 trajectory, got {[*networks]}, {[*noise]} and {trajectories}"
        )
    with needed(_MJLAB, opengl=True):
        from mosaic_collect.adapters.mjlab.collect import MjlabSimulation
        from mosaic_collect.collection.groups import STUDENT
        from mosaic_collect.collection.trial import run_lanes
    queue = None if options.motion is None else MotionQueue(find_motions(options.motion))
    num_envs = trajectories * len(noise) * (1 + len(networks))
    simulation = MjlabSimulation(replace(options, num_envs=num_envs), queue)
    try:
        expert = simulation.policy(options.checkpoint, trust_checkpoint=options.trust_checkpoint)
        on_device = [network.to(simulation.device) for network in networks.values()]
        acts = [
            lambda seen: expert.act(seen).mean,
            *(lambda seen, network=n: network(seen[STUDENT]) for n in on_device),
        ]
        lanes = [(act, sigma) for act in acts for sigma in noise]
        reached = run_lanes(simulation, lanes, options.seed or 0, on_step)
    finally:
        simulation.close()
    return {
        name: reached[i * len(noise) : (i + 1) * len(noise)]
        for i, name in enumerate(["expert", *networks])
    }
