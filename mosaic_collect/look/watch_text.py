"""A look at a growing store as text: some lines for a terminal, or one for a log."""

from __future__ import annotations

from itertools import pairwise

from mosaic_collect.look.watching import Look
from mosaic_collect.text import size_of

_BAR = 24
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def look_lines(look: Look) -> list[str]:
    """A line for each thing, the most important first."""
    found = [
        ("steps", _steps(look)),
        ("pairs", _pairs(look)),
        ("rate", _rate(look)),
        ("disk", _disk(look)),
        ("stalled", "not told" if look.stalled is None else f"{look.stalled:.1%} of the time"),
        ("ended", _ended(look)),
        ("commit", "" if look.is_complete else _commit(look)),
    ]
    return [f"  {name + ':':9}{words}" for name, words in found if words]


def look_line(look: Look) -> str:
    """All of it in one line."""
    parts = [look.status, f"{_steps(look, bar=False)} steps", _pairs(look) + " pairs"]
    parts += [_rate(look), _disk(look), _ended(look)]
    if look.stalled is not None:
        parts.append(f"{look.stalled:.1%} stalled")
    if not look.is_complete:
        parts.append(f"last commit {_commit(look)}")
    return "; ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Such as ``3 h 12 min`` or ``8 s``: the two greatest units that say something."""
    whole = max(round(seconds), 0)
    for (unit, name), (smaller, lower) in pairwise(_UNITS):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def _steps(look: Look, bar: bool = True) -> str:
    words = f"{look.num_steps:,}"
    if look.max_steps is None or look.is_complete:
        return words
    share = min(look.num_steps / look.max_steps, 1.0)
    done = round(share * _BAR)
    drawn = f"  [{'#' * done}{'-' * (_BAR - done)}]" if bar else ""
    left = look.left_seconds
    when = "" if left is None else f", {duration(left)} left"
    return f"{words} of {look.max_steps:,}{drawn} {share:.0%}{when}"


def _pairs(look: Look) -> str:
    pairs = look.num_steps * look.num_envs
    share = f", {look.num_valid / pairs:.1%} valid" if pairs else ""
    return f"{pairs:,}{share}"


def _rate(look: Look) -> str:
    now, overall = (_pairs_a_second(look, rate) for rate in (look.rate, look.overall))
    if look.is_complete:
        return "" if look.overall is None else f"{overall} pairs/s overall"
    return f"{now} pairs/s now, {overall} overall"


def _pairs_a_second(look: Look, rate: float | None) -> str:
    return "-" if rate is None else f"{rate * look.num_envs:,.0f}"


def _disk(look: Look) -> str:
    words = f"{size_of(look.stored_nbytes)} used"
    coming, free = look.nbytes_at_end, look.free_nbytes
    if coming is not None and not look.is_complete:
        words += f", {size_of(coming)} to come"
    if free is None:
        return words
    full = coming is not None and not look.is_complete and coming > free
    return f"{words}, {size_of(free)} free" + (": NOT ENOUGH" if full else "")


def _commit(look: Look) -> str:
    ago = duration(look.since_commit)
    return f"{ago} ago" if look.saw_commit else f"none in the {ago} of this watch"


def _ended(look: Look) -> str:
    fallen = "" if look.num_failed is None else f", {look.num_failed:,} of them fell"
    return f"{look.num_trajectories:,} trajectories{fallen}"
