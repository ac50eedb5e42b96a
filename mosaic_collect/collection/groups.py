"""Which observation groups are recorded, and as which fields; and fields beside the policy's.

    read by the policy, rows (num_envs, width)     side by side in "observations", in its order
    read by the policy, rows of any other shape    "observations_<group>", as it is: images, say
    the student's                                  "student_observations"
    any other                                      only by its name, as an extra

    row t    observations, command, state ──▶ action, step ──▶ reward, ends, final observations
             before the step                                   after it, in the same row

A field of its own keeps the group's axes and dtype, so that a replay can give it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from mosaic_collect.collection.protocols import (
    Extra,
    Observations,
    PolicyOutput,
    Simulation,
    StepResult,
)
from mosaic_collect.errors import InputError
from mosaic_collect.reading.terms import Term
from mosaic_collect.store.schema import Field, Schema

#: The observation group that a student sees, in every simulator.
STUDENT = "student"
#: Group -> its width among the observations, or the axes of its rows in a field of its own; in the
#: order in which a policy reads them.
Groups: TypeAlias = Mapping[str, int | tuple[int, ...]]


def own_field(group: str) -> str:
    """The field of a group whose rows are not flat."""
    return f"observations_{group}"


def flat_groups(groups: Groups) -> dict[str, int]:
    """Groups that make up ``observations``, and their widths."""
    return {name: row for name, row in groups.items() if isinstance(row, int)}


def check_recorded(schema: Schema, groups: Groups) -> None:
    """Refuse groups whose widths or fields are not what a store holds."""
    have, flat = {f.name: f for f in schema.fields}, flat_groups(groups)
    told = have.get("observations")
    width = 0 if told is None else told.width
    if sum(flat.values()) != width:
        raise InputError(f"groups: expected {flat} to add up to {width}")
    for name in set(groups) - set(flat):
        field = have.get(own_field(name))
        if field is None or field.row_shape != groups[name]:
            got = "no such field" if field is None else field.row_shape
            raise InputError(f"{own_field(name)}: expected rows of {groups[name]}, got {got}")


@dataclass(frozen=True, kw_only=True)
class RecordedGroups:
    """What a collection records of its simulation's observations.

    Attributes:
        read: By the policy.
        student_dim: Width of the student's flat group; None: there is none.
        own: Field -> the group that it is, of those whose rows are not flat.
    """

    read: Groups
    student_dim: int | None
    own: Mapping[Field, str]

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int], first: Observations
    ) -> RecordedGroups:
        """Match the rows that a policy expects with a simulation's flat widths and first groups.

        A group that is missing or has another shape is an ``InputError``.
        """
        read = {name: _row(name, shape, dims, first) for name, shape in shapes.items()}
        own = {own_field(name): name for name, row in read.items() if isinstance(row, tuple)}
        student = _row_shape(first, STUDENT)
        if student is not None and len(student) != 1:
            own["student_observations"] = STUDENT
        fields = {field_of(name, first[group]): group for name, group in own.items()}
        return cls(read=read, student_dim=dims.get(STUDENT), own=fields)

    def schema(self, num_actions: int, extra: Iterable[Field]) -> Schema:
        """MOSAIC's fields, those of groups that are not flat, and ``extra`` ones."""
        width = sum(flat_groups(self.read).values()) or None
        return Schema.mosaic(width, num_actions, self.student_dim, (*self.own, *extra))

    def rows(self, observations: Observations, output: PolicyOutput) -> dict[str, torch.Tensor]:
        """The fields of a row, before the environment's own clipping of actions."""
        seen = [observations[group] for group in flat_groups(self.read)]
        fields = {}
        if seen:
            fields["observations"] = seen[0] if len(seen) == 1 else torch.cat(seen, dim=-1)
        fields |= {field.name: observations[group] for field, group in self.own.items()}
        fields |= {
            "actions": output.actions,
            "action_mean": output.mean,
            "action_sigma": output.sigma,
        }
        if self.student_dim is not None:
            fields["student_observations"] = observations[STUDENT]
        return fields

    def to_metadata(self) -> dict[str, Any]:
        """Groups that the policy reads, as a store keeps them; the order counts."""
        return {name: row if isinstance(row, int) else list(row) for name, row in self.read.items()}


def _row(
    name: str, shape: tuple[int, ...], dims: Mapping[str, int], first: Observations
) -> int | tuple[int, ...]:
    if len(shape) == 1 and name in dims:
        return dims[name]
    found = _row_shape(first, name)
    if len(shape) != 1 and found == tuple(shape):
        return found
    raise InputError(
        f"observations: the policy reads the group {name!r}; expected rows of {tuple(shape)}, got "
        f"{found or 'none such'}; there are {', '.join(map(str, first.keys()))}"
    )


def _row_shape(observations: Observations, name: str) -> tuple[int, ...] | None:
    """Shape of a group's rows; None for terms that are not side by side, which are no tensor."""
    value = observations[name] if name in observations.keys() else None  # noqa: SIM118  TensorDict
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else None


def field_of(name: str, values: torch.Tensor) -> Field:
    """Field that holds rows of these values."""
    dtype = str(values.dtype).removeprefix("torch.")
    dtype = "float32" if dtype == "bfloat16" else dtype  # which NumPy lacks; a writer converts it
    return Field(name, dim=tuple(values.shape[1:]), dtype=dtype)


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
        "reward": Extra((Field("reward"),), after=lambda result: {"reward": result.rewards}),
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
