"""``mosaic-collect collect``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from tqdm import tqdm

from mosaic_collect import simulators
from mosaic_collect.adapters.isaaclab.options import TRAINING_RUN, IsaacLabCollectOptions
from mosaic_collect.adapters.rsl_rl.options import RecordOptions
from mosaic_collect.collection.acting import MEAN, SAMPLE
from mosaic_collect.collection.ranks import RankStore
from mosaic_collect.commands.options import (
    CommandParser,
    flags_of,
    parser_of,
    words_of,
)
from mosaic_collect.commands.shared import add_resume, resumable
from mosaic_collect.errors import InputError, StoreMismatchError, StoreNotFoundError
from mosaic_collect.reading.dataset import TrajectoryDataset
from mosaic_collect.simulators import SIMULATORS, require_simulator
from mosaic_collect.store.codec import COMPRESSORS
from mosaic_collect.store.ranks import blobs_at
from mosaic_collect.text import shown as shortened, size_of

if TYPE_CHECKING:
    from mosaic_collect.recording.writer import TrajectoryWriter

#: The metadata entry that holds the command line of a collection.
COMMAND_LINE = "command_line"
#: Options of Isaac Lab that only programs set.
_PROGRAMS = (
    *("terminations", "notes", "start_index", "end_index", "steps_per_trajectory"),
    *("max_trajectories", *TRAINING_RUN),
)
#: How the command line shows options, beside their docstrings and types.
SHOWN: dict[str, dict[str, Any]] = {
    "act_by": {"metavar": "WHO"},
    "output": {"flags": ("-o",)},
    "record": {"metavar": "NAME"},
    "resume": {"add": add_resume},
    "compressor": {"choices": COMPRESSORS, "metavar": None},
}
_GROUPS = {
    "": (
        *("task", "checkpoint", "output", "max_steps", "num_envs", "device", "seed"),
        "trust_checkpoint",
    ),
    "motions": ("motion", "passes", "start", "resample", "allow_fps"),
    "who acts, and disturbances": ("action_noise", "act_by", "act_share", "push"),
    "observations": ("teacher_noise", "student_noise", "student_history", "student_drop"),
    "the store": ("resume", "overwrite", "allow_changed"),
    "more fields": ("record", "record_states"),
    "several processes": ("distributed", "take_over"),
    "Isaac Lab, 2.1 to 2.3 and 3": (
        *("tasks_module", "overrides", "launcher", "student_task", "student_overrides"),
    ),
}
_OPTIONS = {
    "of": IsaacLabCollectOptions,
    "but": _PROGRAMS,
    "group": "checks and tuning",
    "groups": _GROUPS,
    "more": SHOWN,
}
#: What an option changes, by the name that ``--allow-changed`` takes.
_CHANGES = {
    **dict.fromkeys(("action_noise", "act_by", "act_share", "push", "start"), "acting"),
    **dict.fromkeys(("teacher_noise", "student_noise", "student_history"), "observations"),
    **dict.fromkeys(("student_drop", "student_task", "student_overrides"), "observations"),
    "task": "task",
    "checkpoint": "checkpoint",
    "motion": "motions",
}
#: Options that are not repeated on resume: of one run, or of where it runs.
_OF_ONE_RUN = ("output", "resume", "allow_changed", "take_over", "overwrite", "verbose")
#: Options that run code: a store may not choose them.
_RUN_CODE = ("trust_checkpoint", "tasks_module", "overrides", "student_overrides", "launcher")


def run_collect(
    *,
    sim: Annotated[str | None, {"choices": tuple(SIMULATORS), "metavar": None}] = None,
    **given: Annotated[Any, _OPTIONS],
) -> None:
    """Run an rsl_rl checkpoint in a simulated task, and record it into a store.

    --resume --output STORE continues a store with the options that it was collected with.

    Args:
        sim: Simulator (default: mjlab).

    Example:
        mosaic-collect collect --sim mjlab --task Mjlab-Tracking-Flat-Unitree-G1
            --motion motions/ --checkpoint model.pt --num-envs 1024 --max-steps 5000
            --output expert.zarr
    """
    if "output" not in given:
        raise InputError("output: expected the store to record, got none")
    # A job that is queued again with --auto-resume and names its task gives all its options.
    is_whole = given.get("resume") == "auto" and {"task", "checkpoint"} <= {*given}
    recorded = _recorded(given) if given.get("resume") and not is_whole else {}
    before = recorded.pop("sim", "mjlab")
    sim, values = sim or before, {**recorded, **given}
    missing = [name for name in ("task", "checkpoint") if name not in values]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: expected for a store that collect did not record, got none"
        )
    options = _chosen(sim, values)
    require_simulator(options)
    announce(options, sim)
    try:
        watched(
            lambda bar: simulators.run_collect(options, bar, lambda result: tell(result, options)),
            options,
            {**values, "sim": sim},
        )
    except StoreMismatchError as error:
        raise StoreMismatchError(_in_flags(str(error), recorded, given)) from error


def announce(options: RecordOptions, sim: str) -> None:
    """Print what a collection is about to do."""
    envs = "as many environments as before" if options.resume else "64 environments"
    envs = envs if options.num_envs is None else f"{options.num_envs:,} environments"
    lines = [
        f"collect: {options.task} in {sim}, {envs}, device {options.device or 'auto'}",
        f"         {options.checkpoint} -> {options.output}",
        "         the first simulation on a machine takes minutes to build",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


#: Fits into 100 columns with room for large numbers; tqdm's own bar would shrink to nothing.
_BAR = "{desc}: {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


@contextlib.contextmanager
def step_bar(
    max_steps: int | None,
    name: str = "collect",
    on_first: Callable[[TrajectoryWriter], object] = lambda writer: None,
) -> Iterator[Callable[[TrajectoryWriter], None]]:
    """Show progress on stderr, if that is a terminal; the bar starts with the first step.

    Yields:
        Function to call with the writer after each step.
    """
    with contextlib.ExitStack() as opened:
        bars: list[Any] = []

        def show(writer: TrajectoryWriter) -> None:
            if not bars:
                on_first(writer)
                form = None if max_steps is None else _BAR
                how = {"total": max_steps, "desc": name, "unit": " steps", "bar_format": form}
                bar = tqdm(initial=writer.num_steps - 1, disable=None, **how)
                bars.append(opened.enter_context(bar))
            bars[0].update(writer.num_steps - bars[0].n)
            stats = writer.stats
            seconds = max(stats.seconds, 1e-9)
            bars[0].set_postfix_str(
                f"{tqdm.format_sizeof(stats.steps * writer.num_envs / seconds)} env-steps/s, "
                f"{stats.raw_nbytes / seconds / 1e6:.0f} MB/s, "
                f"{stats.stalled_seconds / seconds:.0%} stalled",
                refresh=False,
            )

        yield show


def watched(
    collect: Callable[[Any], object],
    options: RecordOptions,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Run a collection behind a progress bar; after an interrupt, print how to continue it.

    The function takes what is to be called after each step. The values are options as they were
    given to the command, for the store's metadata.
    """

    def on_first(writer: TrajectoryWriter) -> None:
        if values is not None:
            writer.update_metadata(**{COMMAND_LINE: _command_line(values)})
            print(_size_text(writer, options.max_steps), file=sys.stderr, flush=True)

    again = ""
    if values is not None and not options.distributed:
        again = f"mosaic-collect collect --resume --output {shlex.quote(str(options.output))}"
    store = RankStore.of(options.output, options.distributed).blobs.address
    with resumable(store, again), step_bar(options.max_steps, on_first=on_first) as bar:
        collect(bar)


def _size_text(writer: TrajectoryWriter, max_steps: int | None) -> str:
    """The size of the finished store and the room for it."""
    step_nbytes = writer.stats.raw_nbytes / max(writer.stats.steps, 1)
    size = f"{writer.num_envs:,} environments, {size_of(step_nbytes)} per step"
    if max_steps is not None:
        left = max_steps - writer.num_steps
        size += f", {size_of(left * step_nbytes)} for {left:,} more steps, before compression"
    free = blobs_at(writer.path).free_nbytes()
    return f"         {size}" + ("" if free is None else f"; {size_of(free)} free")


def tell(result: Any, options: RecordOptions) -> None:
    """Print the result of a collection, a ``CollectResult``, and what to do next."""
    store = result.store
    if result.already_complete and not result.num_steps and options.distributed:
        print(f"{store}: this rank got no motion, as the other ranks record all of them")
        return
    if result.already_complete:
        print(f"{store} is complete with {result.num_steps:,} steps; nothing to do")
        return
    ends = f"{result.completed:,} trajectories reached their motion's end, {result.fell:,} failed"
    print(f"{store}: {result.num_steps:,} steps" + (f"; {ends}" if options.motion else ""))
    for note in result.notes:
        print(f"note: {note}")
    if not options.distributed:
        path = shlex.quote(str(options.output))
        print(
            "next:\n"
            f"  mosaic-collect report {path}\n"
            f"  mosaic-collect verify {path} --checkpoint {shlex.quote(str(options.checkpoint))}\n"
            f"  mosaic-collect export {path}"
        )


def _chosen(sim: str, values: Mapping[str, Any]) -> RecordOptions:
    """A simulator's options of those that were given; its own defaults for the others."""
    takers = {name: kind.__dataclass_fields__ for name, kind in SIMULATORS.items()}
    wrong = [name for name in values if name not in takers[sim]]
    if wrong:
        others = " or ".join(other for other in takers if wrong[0] in takers[other])
        raise InputError(f"{', '.join(wrong)}: expected only with --sim {others}")
    return SIMULATORS[sim](**values)


def _command_line(values: Mapping[str, Any]) -> list[str]:
    """The options that continue a collection, as words; files by their whole paths."""
    kept = {name: value for name, value in values.items() if name not in _OF_ONE_RUN}
    for name in ("checkpoint", "motion", "act_by"):
        if kept.get(name, MEAN) not in (MEAN, SAMPLE):
            kept[name] = os.path.abspath(os.path.expanduser(kept[name]))
    return words_of(_parser(), kept)


def _recorded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a store's metadata; empty if there is no such store or it has none.

    Raises:
        InputError: The options are damaged, or run code: the user must give them again.
    """
    output = given["output"]
    try:
        parts = TrajectoryDataset(output).parts
    except StoreNotFoundError:
        return {}
    words: Any = next((p.metadata[COMMAND_LINE] for p in parts if COMMAND_LINE in p.metadata), [])
    helps = ("-h", "--help")
    if not isinstance(words, list) or not all(isinstance(w, str) and w not in helps for w in words):
        raise InputError(f"{output}: {COMMAND_LINE}: expected options, got {shortened(words)}")

    def refuse(message: str) -> NoReturn:  # an error of the store, no exit
        told = shortened(message.removeprefix("argument "))
        raise InputError(f"{output}: {COMMAND_LINE}: {told}")

    parser = _parser()
    setattr(parser, "error", refuse)  # noqa: B010
    values = vars(parser.parse_args(words))
    code = {n: values[n] for n in _RUN_CODE if n in values and n not in given}
    if code:
        raise InputError(
            f"{', '.join(code)}: these options run code, so a store does not choose them: "
            f"give them again, as {shlex.join(words_of(parser, code))}"
        )
    return {name: value for name, value in values.items() if name not in _OF_ONE_RUN}


def _parser() -> CommandParser:
    return parser_of("collect", run_collect)


def _in_flags(message: str, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """A mismatch with the flags to type: those of before, or the one that allows the change."""
    changed = [n for n in given if n in _CHANGES and given[n] != recorded.get(n)]
    if not changed:
        return message
    flags, before = flags_of(_parser()), {n: recorded[n] for n in changed if n in recorded}
    words = shlex.join(words_of(_parser(), before))
    without = ", ".join(flags[name] for name in changed if name not in before)
    names = " ".join(sorted({_CHANGES[name] for name in changed}))
    return (
        message.replace("--allow-changed NAME", f"--allow-changed {names}")
        + (f"; as before: {words}" if words and recorded else "")
        + (f"; leave out {without}" if without and recorded else "")
    )
