"""Options of a dataclass, and messages in the command line's words."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from mosaic_collect import export_npy, export_store, import_npy
from mosaic_collect.commands import command
from mosaic_collect.commands.options import (
    ARGUMENT,
    add_options,
    flags_of,
    in_flags,
    meanings,
    parser_of,
    words_of,
)


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A trip.

    Attributes:
        goal: Place to go, ``A`` or
            elsewhere: 100 %.
        days: Length of the trip; None: as ``bound`` has it.
        by: Means of transport.
        stops: Places on the way.
        bound: Bound of the cost.
        fast, inner: Hurry.
        rest: Sleep.
    """

    goal: Annotated[str, {"required": True}]
    days: int | None = None
    by: Literal["train", "ship"] = "train"
    stops: Sequence[str] | None = None
    bound: float | str = "auto"
    fast: bool = False
    rest: bool = True
    inner: int = 5


def parsed(*words: str) -> Trip:
    parser = argparse.ArgumentParser()
    add_options(parser, Trip, but=("inner",))
    return Trip(**vars(parser.parse_args(words)))


def test_defaults_are_the_classes() -> None:
    assert parsed("--goal", "A") == Trip(goal="A")


def test_each_kind_of_value() -> None:
    words = "--goal A --days 3 --by ship --stops B C --bound 2.5 --fast --no-rest"
    assert parsed(*words.split()) == Trip(
        goal="A", days=3, by="ship", stops=["B", "C"], bound=2.5, fast=True, rest=False
    )
    assert parsed("--goal", "A", "--bound", "auto").bound == "auto"


@pytest.mark.parametrize(
    "words",
    ["", "--goal A --days x", "--goal A --by air", "--goal A --inner 3", "--goal A --no-fast"],
)
def test_bad_usage(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words.split())
    assert "usage" in capsys.readouterr().err


def test_help_is_what_the_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "--goal GOAL place to go, A or elsewhere: 100 %" in told
    assert "--days N length of the trip (default: as --bound has it)" in told
    assert "--by {train,ship} means of transport (default: train)" in told
    assert "--rest, --no-rest sleep (default: yes)" in told
    assert "--fast hurry (default: no)" in told


def test_words_of_values_are_parsed_as_these() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Trip)
    trip = Trip(goal="--A b", days=-3, stops=["B"], bound=2.5, fast=True, rest=False)
    assert Trip(**vars(parser.parse_args(words_of(parser, vars(trip))))) == trip


def test_groups_and_optional_options() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Trip, groups={"": ("rest", "goal"), "pace": ("fast",)})
    assert vars(parser.parse_args(["--fast", "--goal", "A"])) == {"fast": True, "goal": "A"}
    told = parser.format_help()
    places = [
        told.index(text) for text in ("  --rest", "  --goal", "  --days", "pace:", "  --fast")
    ]
    assert places == sorted(places)


MORE = {"of": Trip, "but": ("goal",), "group": "more", "more": {"days": {"name": "length"}}}


def travel(goal: Annotated[str, ARGUMENT], **trip: Annotated[Any, MORE]) -> None:
    """Go."""


def test_options_of_other_functions_are_passed_on_by_name() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, travel)
    given = vars(parser.parse_args(["A", "--length", "3", "--no-rest"]))
    assert given == {"goal": "A", "days": 3, "rest": False}
    assert "more:\n  --length N" in parser.format_help()


#: Parameters that are no options.
NO_FLAGS = {"store", "stores", "path", "npy", "metadata", "progress", "engine", "subset"}


@pytest.mark.parametrize(
    ("name", "calls", "but", "own"),
    [
        ("export", [export_npy], set(), "format fps state video scheduler workers"),
        ("store", [export_npy, export_store], {"layout", "allow_nonfinite"}, ""),
        ("import", [import_npy], set(), "auto_resume"),
    ],
)
def test_the_flags_of_a_command_are_the_parameters_of_its_calls(
    name: str, calls: list[Callable[..., Any]], but: set[str], own: str
) -> None:
    parameters = {p for call in calls for p in inspect.signature(call).parameters}
    names = parameters - NO_FLAGS - but | {*own.split()}
    actions = parser_of(name, command(name))._actions
    flags = {flag for action in actions for flag in action.option_strings}
    common = {"-h", "--help", "--json", "--verbose"}
    assert flags == common | {f"--{n.replace('_', '-')}" for n in names}


def test_the_meanings_of_a_function_and_of_nothing() -> None:
    def travel(goal: str, days: int) -> None:
        """Go.

        Args:
            goal: Where.

            days: How long.

        Returns:
            goal: no argument.
        """

    assert meanings(travel) == {"goal": "Where.", "days": "How long."}
    assert meanings(lambda: None) == {}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("exists: resume=True goes on", "exists: --resume goes on"),
        ("use layout='compact', or max_pairs=True", "use --layout compact, or --max-pairs"),
        ("runs/resume=True/s.zarr exists", "runs/resume=True/s.zarr exists"),
        ("other=True, resume=False", "other=True, resume=False"),
        ("not so (resume=True)", "not so (--resume)"),
        ("max_pairs: expected 1, got 0; seed: no", "--max-pairs: expected 1, got 0; seed: no"),
        ("resume, layout: both; a layout: b", "--resume, --layout: both; a layout: b"),
    ],
)
def test_messages_in_the_command_lines_words(message: str, words: str) -> None:
    flags = {"resume": "--resume", "layout": "--layout", "max_pairs": "--max-pairs"}
    assert in_flags(message, flags) == words


def test_only_options_become_flags() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    add_options(parser, Trip)
    flags = flags_of(parser)
    assert flags["rest"] == "--no-rest"
    told = in_flags("store, days: expected others; rest=True", flags)
    assert told == "store, --days: expected others; --no-rest"
