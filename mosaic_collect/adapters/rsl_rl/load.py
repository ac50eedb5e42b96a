"""The actor of a checkpoint: what is common to all generations of rsl_rl, and what is not."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch

from mosaic_collect.adapters.rsl_rl.checkpoint import (
    RSL2,
    RSL3,
    RSL4,
    RSL5,
    RSL23,
    Checkpoint,
    listed,
    weights_only,
)
from mosaic_collect.adapters.rsl_rl.runner_cfg import config_dict
from mosaic_collect.checks import needed
from mosaic_collect.collection.protocols import Observations, PolicyOutput
from mosaic_collect.errors import InputError, MosaicCollectError

POLICY = "policy"  # name of the actor's observations in rsl_rl 2.x, its tuple's first tensor
#: Parts of the module that say nothing about actions: values, and a student's teacher.
_NOT_ACTING = ("critic", "memory_c.", "teacher.", "memory_t.")
#: What runners raise while they look classes up by name and hand options on to them.
_UNBUILDABLE = (NameError, AttributeError, TypeError, ValueError, ImportError, FileNotFoundError)
_log = logging.getLogger(__name__)

#: Group name -> shape of one environment's value, such as ``(154,)``.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
#: A sample, the mean and the sigma of one forward, each ``(num_envs, num_actions)``.
Forward: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Actor:
    """A loaded network as a policy, of whichever generation; acts by its mean or by samples."""

    deterministic = True

    def __init__(
        self, network: Any, shapes: Shapes, forward: Callable[[dict[str, torch.Tensor]], Forward]
    ) -> None:
        self.shapes, self._network, self._forward = dict(shapes), network.eval(), forward

    @property
    def is_recurrent(self) -> bool:
        """Whether its actions depend on earlier observations."""
        return bool(getattr(self._network, "is_recurrent", True))

    def act(self, observations: Observations) -> PolicyOutput:
        rows = self._select(observations)
        with torch.no_grad():
            sample, mean, sigma = self._forward(rows)
        mean = mean.detach()  # as sigma, which may be a view of a parameter
        return PolicyOutput(mean if self.deterministic else sample.detach(), mean, sigma.detach())

    def reset(self, dones: torch.Tensor) -> None:
        with torch.no_grad():
            self._network.reset(dones.bool())

    def _select(self, observations: Observations) -> dict[str, torch.Tensor]:
        missing = [n for n in self.shapes if n not in observations.keys()]  # noqa: SIM118  TensorDict
        if missing:
            raise InputError(
                f"observations: expected the groups {listed(self.shapes)}, "
                f"got {listed(map(str, observations.keys()))}"
            )
        rows = {name: observations[name] for name in self.shapes}
        for name, value in rows.items():
            if tuple(value.shape[1:]) != self.shapes[name]:
                raise InputError(
                    f"observations: expected {name!r} of shape (num_envs, "
                    f"{', '.join(map(str, self.shapes[name]))}), got {tuple(value.shape)}"
                )
        return rows


def load_policy(
    env: Any,
    runner_cfg: Any,
    checkpoint: str | os.PathLike[str] | Checkpoint,
    device: Any = "cpu",
    runner_class: type[Any] | None = None,
    deterministic: bool = True,
    trust_checkpoint: bool = False,
) -> Actor:
    """The actor of a checkpoint, with its normaliser; the critic need not fit.

    Args:
        env: An rsl_rl ``VecEnv``; asked for observations once, so call this before the first reset.
        runner_cfg: Training config, a dict or a config object; not changed.
        checkpoint: Written by a runner's ``save``: its path, or as it was read. No code in it runs.
        device: Device of the environment and the networks.
        runner_class: A subclass of rsl_rl's ``OnPolicyRunner``; None: that itself. From 4.x on one
            with a ``load`` of its own, such as mjlab's, may migrate older checkpoints.
        deterministic: Act by the mean; if not, by samples.
        trust_checkpoint: Code in the checkpoint may run, and in those that ``runner_cfg`` names.

    Raises:
        InputError: The checkpoint is of another family or does not fit the config; the message
            names the keys found and expected. Or it holds more than tensors and plain values, which
            are named. Or the actor is of a kind that cannot be recorded.
        MissingDependencyError: rsl_rl is not installed.
    """
    number = generation()
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.read(checkpoint, trust_checkpoint)
    checkpoint.require(_families(number, runner_class))
    config = config_dict(runner_cfg)
    if number == 2:
        _forget_training(config)
    with weights_only(trust_checkpoint):
        runner = build_runner(env, config, device, runner_class)
        actor = _ACTORS[number](runner, checkpoint)
    actor.deterministic = deterministic
    return actor


def generation() -> int:
    """The generation of the installed rsl_rl, recognised by its parts: 2, 3, or 5 for 4.x, too.

    Its version would not do: forks keep or change it as they like.
    """
    with _needs_rsl_rl():
        utils = importlib.import_module("rsl_rl.utils")
    if find_spec("rsl_rl.models") is not None:
        return 5
    # The function through which 3.x picks observation groups.
    return 3 if hasattr(utils, "resolve_obs_groups") else 2


def _families(number: int, runner_class: type[Any] | None) -> tuple[str, ...]:
    """Families of the checkpoints whose actor a generation reads; the one it writes is first.

    From 4.x on a runner with a ``load`` of its own may migrate older ones.
    """
    if number < 5:
        return (RSL2 if number == 2 else RSL3, RSL23)
    own = RSL4 if find_spec("rsl_rl.modules.distribution") is None else RSL5
    migrates = runner_class is not None and runner_class.load is not _runner_class().load
    return tuple(dict.fromkeys((own, *((RSL3, RSL23, RSL4) if migrates else ()))))


def _forget_training(config: dict[str, Any]) -> None:
    """Change a config of 2.x in place to that of a runner that acts and does not train."""
    config["reset_noise_std_on_resume"] = False  # it would replace the trained sigma
    if "expert_trajectory_path" in config.get("algorithm", {}):
        # It would load the file, to no end.
        config["algorithm"]["expert_trajectory_path"] = None


def _actor_2(runner: Any, checkpoint: Checkpoint) -> Actor:
    """Of rsl_rl 2.x, MOSAIC's fork among them: one tensor, normalised by the caller."""
    if getattr(runner.alg, "use_estimate_ref_vel", False):
        raise InputError("runner_cfg: an actor with use_estimate_ref_vel is not supported")
    module, normalizer = runner.alg.policy, runner.obs_normalizer
    parts = checkpoint.state("model_state_dict").values()
    if any(isinstance(part, dict) for part in parts):
        # MOSAIC's residual policy: parts of parts, which only its own runner can put together.
        with _loading(checkpoint, module), checkpoint.as_file() as path:
            runner.load(path, load_optimizer=False, load_critic=False)
    else:
        _load_actor(module, checkpoint)
        learned, wanted = checkpoint.state("obs_norm_state_dict"), bool(normalizer.state_dict())
        if wanted != bool(learned):
            raise InputError(
                f"checkpoint {checkpoint.path} {'has' if learned else 'lacks'} "
                f"obs_norm_state_dict, but runner_cfg says empirical_normalization={wanted}: "
                "actions would be wrong"
            )
        with _loading(checkpoint, normalizer):
            normalizer.load_state_dict(learned)
    normalizer.eval()  # in training mode it would learn what it is shown
    return Actor(
        module,
        _trained_shapes(runner, [POLICY]),
        lambda rows: _forward(module, normalizer(rows[POLICY])),
    )


def _actor_3(runner: Any, checkpoint: Checkpoint) -> Actor:
    """Of rsl_rl 3.x: TensorDict observations, normalisers inside the policy."""
    module = runner.alg.policy
    _load_actor(module, checkpoint)
    shapes = _trained_shapes(runner, module.obs_groups["policy"])
    return Actor(module, shapes, lambda rows: _forward(module, rows))


def _actor_5(runner: Any, checkpoint: Checkpoint) -> Actor:
    """Of rsl_rl 4.x and 5.x: an actor model that holds its normaliser and distribution."""
    model = runner.alg.get_policy()
    with _loading(checkpoint, model), checkpoint.as_file() as path:
        # Critic, optimiser and iteration are left where they are.
        runner.load(path, load_cfg={"actor": True}, strict=True, map_location=runner.device)
    # 5.x keeps a distribution or None, 4.x a flag.
    if not getattr(model, "stochastic", model.distribution is not None):
        raise InputError("actor: expected one with an action distribution, got a plain network")

    def forward(rows: Any) -> Forward:
        sample = model(rows, stochastic_output=True)
        return sample, model.output_mean, model.output_std

    groups = (*model.obs_groups, *getattr(model, "obs_groups_2d", ()))
    return Actor(model, _trained_shapes(runner, groups), forward)


#: Functions that load the actor, with its normaliser, into a fresh runner of a generation.
_ACTORS = {2: _actor_2, 3: _actor_3, 5: _actor_5}


def build_runner(
    env: Any, config: dict[str, Any], device: Any, runner_class: type[Any] | None
) -> Any:
    """A fresh runner for inference, which takes ``config`` apart and observes the environment once.

    A config that this rsl_rl cannot build is an ``InputError``.
    """
    # The runner keeps room for a rollout of training, gigabytes for many environments.
    config["num_steps_per_env"] = 1
    # Hide torchrun's world: a collecting rank exchanges no gradients, so it joins no group.
    world = os.environ.pop("WORLD_SIZE", None)
    try:
        with quiet():
            return (runner_class or _runner_class())(env, config, None, str(device))
    except MosaicCollectError:
        raise
    except KeyError as error:
        raise InputError(
            f"runner_cfg: this rsl_rl's runner expects {error}; found {listed(config)}"
        ) from error
    except _UNBUILDABLE as error:
        kind = type(error).__name__
        raise InputError(f"runner_cfg: this rsl_rl cannot build it: {kind}: {error}") from error
    finally:
        if world is not None:
            os.environ["WORLD_SIZE"] = world


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log what rsl_rl prints within, at level DEBUG."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            _log.debug("rsl_rl: %s", line)


@contextlib.contextmanager
def _loading(checkpoint: Checkpoint, network: Any) -> Iterator[None]:
    """Turn what torch and rsl_rl raise for a checkpoint that does not fit into an InputError."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())  # torch writes a line for each parameter
        raise InputError(
            f"checkpoint {checkpoint.path} does not fit the configured policy: {words}; expected "
            f"the keys {listed(network.state_dict())}"
        ) from error


def _load_actor(module: Any, checkpoint: Checkpoint) -> None:
    """Load all of ``module`` that acts; its critic stays as it is, so any critic will do."""
    own, found = module.state_dict(), checkpoint.state("model_state_dict")
    kept = {key: value for key, value in own.items() if key.startswith(_NOT_ACTING)}
    acting = {key: value for key, value in found.items() if not key.startswith(_NOT_ACTING)}
    with _loading(checkpoint, module):
        module.load_state_dict({**kept, **acting})


def _forward(module: Any, observations: Any) -> Forward:
    # act, not act_inference: it leaves mean and sigma behind, and each call of either advances a
    # recurrent memory.
    sample = module.act(observations)
    return sample, module.action_mean, module.action_std


def _trained_shapes(runner: Any, groups: Iterable[str]) -> Shapes:
    """The shapes that the runner was built for, per group, read from its storage."""
    stored = runner.alg.storage.observations  # (steps, num_envs, ...), one tensor or a TensorDict
    one = isinstance(stored, torch.Tensor)
    return {name: tuple((stored if one else stored[name]).shape[2:]) for name in groups}


def _runner_class() -> Any:
    with _needs_rsl_rl():
        from rsl_rl.runners import OnPolicyRunner
    return OnPolicyRunner


def _needs_rsl_rl() -> contextlib.AbstractContextManager[None]:
    return needed("loading a policy needs rsl_rl: pip install rsl-rl-lib")
