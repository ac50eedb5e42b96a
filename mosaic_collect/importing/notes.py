"""What the reader of an imported store should know, in words."""

from __future__ import annotations

from collections.abc import Iterator

from mosaic_collect.importing.contents import Contents
from mosaic_collect.npyfile.layout import COMPACT
from mosaic_collect.store.metadata import StoreState
from mosaic_collect.store.schema import MOSAIC_FIELDS
from mosaic_collect.text import shown


def notes(contents: Contents, state: StoreState, first_step: int, apart: bool) -> Iterator[str]:
    """One sentence each."""
    yield from _of_trajectories(contents, state, apart)
    if (contents.file.provenance or {}).get("layout") == COMPACT:
        yield "the file is compact and knows no environments: its pairs are the steps of one"
    wide = [f.name for f in contents.schema.fields if f.dtype == "float64"]
    if wide:
        yield f"float64 is kept in {', '.join(wide)}; an export makes it float32"
    missing = [n for n in MOSAIC_FIELDS if n.startswith("action") and n not in contents.arrays]
    if missing:
        yield f"MOSAIC's loss also reads {', '.join(missing)}, which the file does not hold"
    told = contents.file.metadata.get("num_steps")
    if told is not None and told != state.num_valid:
        yield f"the file's metadata says num_steps {shown(told)}, valid pairs are {state.num_valid}"
    if first_step == contents.num_steps:
        yield "all steps were there already"
    elif first_step:
        yield f"went on at step {first_step}: trajectories open there go on under new ids"


def _of_trajectories(contents: Contents, state: StoreState, apart: bool) -> Iterator[str]:
    told = shown(contents.file.metadata.get("num_trajectories"))
    if contents.id_field is None:
        yield (
            f"the file holds no trajectory ids (its metadata says num_trajectories {told}): each "
            "environment is one trajectory, and no end is known"
        )
    elif apart:
        yield (
            f"the file's trajectory_id is kept as {contents.id_field}; each of its "
            f"{state.num_trajectories} changes ended a trajectory (the file's metadata says "
            f"num_trajectories {told}); whether the last of an environment ended is not known"
        )
    else:
        yield (
            f"the file's trajectory_id is kept as {contents.id_field}; trajectories lie mixed in "
            "it, so the store's own trajectory_id is one for each environment, and no end is known"
        )
