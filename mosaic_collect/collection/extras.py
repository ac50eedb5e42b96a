"""Fields that a collection records beside the policy's: rewards, commands, states, other groups.

row t    observations, command, state ──▶ action, step ──▶ reward, terminated, final observations
before the step                                   after it, in the same row
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from mosaic_collect.collection.groups import (
    STUDENT,
    RecordedGroups,
    field_of,
    flat_groups,
    own_field,
)
from mosaic_collect.collection.protocols import Extra, Observations, Simulation, StepResult
from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.schema import Field

#: Fields of a state: generalised positions and velocities in MuJoCo's order, and the place of each
#: environment's own origin in the world, m.
QPOS, QVEL, ORIGIN = "qpos", "qvel", "env_origin"


def find_extras(
    names: Iterable[str], simulation: Simulation, groups: RecordedGroups, first: Observations
) -> list[Extra]:
    """Resolve the names of extras; ``groups`` are recorded anyway. An error lists all names."""
    terms = simulation.group_terms
    anyway = [*groups.read, *([STUDENT] if STUDENT in first.keys() else [])]  # noqa: SIM118
    have = {
        name: _group(name, first[name], terms.get(name, ()))
        for name in map(str, first.keys())
        if name not in anyway and isinstance(first[name], torch.Tensor)
    }
    have |= {
        "reward": Extra((Field("reward"),), after=_reward),
        "terminated": Extra(
            (Field("terminated", dtype="bool"),),
            after=lambda result: {"terminated": result.dones & ~result.time_outs},
        ),
        "truncated": Extra(
            (Field("truncated", dtype="bool"),),
            after=lambda result: {"truncated": result.dones & result.time_outs},
        ),
        **simulation.extras(),
    }
    if simulation.has_final:
        have["final_observations"] = _final(groups)
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in have]:
        raise InputError(
            f"record: expected names among {', '.join(have)}, got {', '.join(unknown)}; "
            f"{', '.join(anyway)}: recorded in any case"
        )
    return [have[name] for name in wanted]


def _group(name: str, values: torch.Tensor, terms: Sequence[Term]) -> Extra:
    recorded = field_of(own_field(name), values)
    return Extra(
        (recorded,),
        before=lambda observations: {recorded.name: observations[name]},
        terms={recorded.name: terms} if terms else {},
    )


def _reward(result: StepResult) -> Mapping[str, torch.Tensor]:
    if result.rewards is None:
        raise InputError("record: the simulation returns no reward")
    return {"reward": result.rewards}


def _final(groups: RecordedGroups) -> Extra:
    """Observations before a reset, in rows that end an episode; zeros in all other rows."""
    flat = flat_groups(groups.read)
    parts = {"final_observations": flat} if flat else {}
    if groups.student_dim is not None:
        parts["final_student_observations"] = {STUDENT: groups.student_dim}

    def after(result: StepResult) -> Mapping[str, torch.Tensor]:
        if result.final is None and bool(result.dones.any()):
            raise InputError("record: the simulation returned no observations before the reset")
        seen = result.observations if result.final is None else result.final
        rows = {n: torch.cat([seen[group] for group in of], dim=-1) for n, of in parts.items()}
        return {n: torch.where(result.dones[:, None], v, 0.0) for n, v in rows.items()}

    fields = tuple(Field(name, dim=sum(of.values())) for name, of in parts.items())
    return Extra(fields, after=after)
