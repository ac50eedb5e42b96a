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

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from mosaic_collect.collection.protocols import (
    FieldReader,
    Observations,
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


def match_groups(
    shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int], first: Observations
) -> Groups:
    """Match the rows that a policy expects with a simulation's flat widths and first groups.

    A group that is missing or has another shape is an ``InputError``.
    """
    read: dict[str, int | tuple[int, ...]] = {}
    for name, shape in shapes.items():
        found = _row_shape(first, name)
        if len(shape) == 1 and name in dims:
            read[name] = dims[name]
        elif len(shape) != 1 and found == tuple(shape):
            read[name] = found
        else:
            raise InputError(
                f"observations: the policy reads the group {name!r}; expected rows of "
                f"{tuple(shape)}, got {found or 'none such'}; there are "
                f"{', '.join(map(str, first.keys()))}"
            )
    return read


def flat_fields(read: Groups, dims: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Fields whose rows are flat groups side by side: those groups and their widths.

    ``read`` are the groups that the policy reads, ``dims`` the widths of all flat groups.
    """
    student = {STUDENT: dims[STUDENT]} if STUDENT in dims else {}
    fields = {"observations": flat_groups(read), "student_observations": student}
    return {name: groups for name, groups in fields.items() if groups}


def group_readers(
    read: Groups, simulation: Simulation, first: Observations
) -> Iterator[FieldReader]:
    """Readers of the groups that the policy and the student read."""
    terms = simulation.group_terms
    for name, groups in flat_fields(read, simulation.group_dims).items():
        yield _side_by_side(name, groups, terms)
    own = {name: own_field(name) for name, row in read.items() if isinstance(row, tuple)}
    student = _row_shape(first, STUDENT)
    if student is not None and len(student) != 1:
        own[STUDENT] = "student_observations"
    for group, name in own.items():
        yield _as_it_is(name, group, first[group])


def row_schema(read: Groups, simulation: Simulation, readers: Iterable[FieldReader]) -> Schema:
    """MOSAIC's fields of the flat groups, then all other fields of the readers."""
    flat = flat_fields(read, simulation.group_dims)
    widths = {name: sum(groups.values()) for name, groups in flat.items()}
    return Schema.mosaic(
        widths.get("observations"),
        simulation.num_actions,
        widths.get("student_observations"),
        [field for reader in readers for field in reader.fields if field.name not in widths],
    )


def _row_shape(observations: Observations, name: str) -> tuple[int, ...] | None:
    """Shape of a group's rows; None for terms that are not side by side, which are no tensor."""
    value = observations[name] if name in observations.keys() else None  # noqa: SIM118  TensorDict
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else None


def _joined(observations: Observations, groups: Iterable[str]) -> torch.Tensor:
    """Flat groups side by side; one alone is not copied."""
    rows = [observations[group] for group in groups]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)


def _side_by_side(
    field: str, groups: Mapping[str, int], known: Mapping[str, Sequence[Term]]
) -> FieldReader:
    """Reader of flat groups; its terms are named if those of all groups are ``known``."""
    found = []
    if all(group in known for group in groups):
        found = [(group, term) for group in groups for term in known[group]]
    count = Counter(term.name for _, term in found)
    terms = [t if count[t.name] == 1 else replace(t, name=f"{g}.{t.name}") for g, t in found]
    return FieldReader(
        (Field(field, dim=sum(groups.values())),),
        before=lambda observations: {field: _joined(observations, groups)},
        terms={field: terms} if terms else {},
    )


def _as_it_is(
    field: str, group: str, values: torch.Tensor, terms: Sequence[Term] = ()
) -> FieldReader:
    """Reader of a group into a field of its own, with the axes and dtype of ``values``."""
    dtype = str(values.dtype).removeprefix("torch.")
    dtype = "float32" if dtype == "bfloat16" else dtype  # which NumPy lacks; a writer converts it
    return FieldReader(
        (Field(field, dim=tuple(values.shape[1:]), dtype=dtype),),
        before=lambda observations: {field: observations[group]},
        terms={field: terms} if terms else {},
    )


#: Fields of a state: generalised positions and velocities in MuJoCo's order, and the place of each
#: environment's own origin in the world, m.
QPOS, QVEL, ORIGIN = "qpos", "qvel", "env_origin"


def find_extras(
    names: Iterable[str], simulation: Simulation, read: Groups, first: Observations
) -> list[FieldReader]:
    """Readers by the names of extras; groups that are ``read`` are recorded in any case.

    An error lists all names.
    """
    terms = simulation.group_terms
    anyway = [*read, *([STUDENT] if STUDENT in first.keys() else [])]  # noqa: SIM118  TensorDict
    have = {
        name: _as_it_is(own_field(name), name, first[name], terms.get(name, ()))
        for name in map(str, first.keys())
        if name not in anyway and isinstance(first[name], torch.Tensor)
    }
    have |= {
        "reward": _of_step(Field("reward"), lambda step: step.rewards),
        "terminated": _of_step(
            Field("terminated", dtype="bool"), lambda step: step.dones & ~step.time_outs
        ),
        "truncated": _of_step(
            Field("truncated", dtype="bool"), lambda step: step.dones & step.time_outs
        ),
        **simulation.extras(),
    }
    if simulation.has_final:
        have["final_observations"] = _final(flat_fields(read, simulation.group_dims))
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in have]:
        raise InputError(
            f"record: expected names among {', '.join(have)}, got {', '.join(unknown)}; "
            f"{', '.join(anyway)}: recorded in any case"
        )
    return [have[name] for name in wanted]


def _of_step(field: Field, value: Callable[[StepResult], torch.Tensor]) -> FieldReader:
    return FieldReader((field,), after=lambda step: {field.name: value(step)})


def _final(flat: Mapping[str, Mapping[str, int]]) -> FieldReader:
    """Observations before a reset, in rows that end an episode; zeros in all other rows."""

    def after(result: StepResult) -> Mapping[str, torch.Tensor]:
        if result.final is None and bool(result.dones.any()):
            raise InputError("record: the simulation returned no observations before the reset")
        seen = result.observations if result.final is None else result.final
        ended = result.dones[:, None]
        return {f"final_{n}": torch.where(ended, _joined(seen, of), 0.0) for n, of in flat.items()}

    fields = tuple(Field(f"final_{name}", dim=sum(of.values())) for name, of in flat.items())
    return FieldReader(fields, after=after)
