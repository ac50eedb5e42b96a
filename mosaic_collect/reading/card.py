"""A store as a card for notebooks: HTML that takes its colours from where it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mosaic_collect.errors import CorruptStoreError, InputError
from mosaic_collect.reading.ends import count_failed, truncated_ids
from mosaic_collect.reading.sizes import FIELD_HEAD, field_rows
from mosaic_collect.reading.terms import TERMS, told_terms
from mosaic_collect.store.metadata import COMPLETE
from mosaic_collect.store.view import StoreView
from mosaic_collect.text import shown

#: Everything is the page's own text colour or a shade of it, so light and dark both read well.
_STYLE = """\
.mosaic-card{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:72em}
.mosaic-card div.wide{overflow-x:auto}
.mosaic-card table{border-collapse:collapse;font:inherit;color:inherit;margin:.4em 0}
.mosaic-card :is(th,td){padding:.15em .9em .15em 0;text-align:left;background:none;\
color:inherit;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.35)}
.mosaic-card .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.mosaic-card thead th{font-weight:600}
.mosaic-card details td{overflow-wrap:anywhere}
.mosaic-card summary{cursor:pointer}
.mosaic-card .bar{display:inline-block;width:9em;height:.6em;border:1px solid currentColor;\
border-radius:2px;margin-right:.6em}
.mosaic-card .bar i{display:block;height:100%;background:currentColor}"""
_MOST_TERMS = 40


def card(view: StoreView) -> str:
    """The card of a store that has said something of itself."""
    facts = [("status", _status(view)), ("size", _size(view)), ("trajectories", _ends(view))]
    parts = [
        f"<strong>{escape(shown(view.address))}</strong>",
        _table(None, [[_head(k), f"<td>{v}</td>"] for k, v in facts]),
        _fields(view),
        _terms(view),
        _metadata(view),
    ]
    return f'<div class="mosaic-card"><style>{_STYLE}</style>{"".join(parts)}</div>'


def unborn_card(address: str) -> str:
    """The card of a store that was killed before its first commit."""
    name = escape(shown(address))
    return f"<div><strong>{name}</strong><br>killed before its first commit: zero steps</div>"


def _status(view: StoreView) -> str:
    state = view.state
    words = "complete" if state.status == COMPLETE else "collecting: not complete, yet or ever"
    runs = len(state.runs)
    last = f", the last from {escape(shown(state.runs[-1].started))}" if runs else ""
    return f"{words}; {runs} run{'s' if runs != 1 else ''}{last}"


def _size(view: StoreView) -> str:
    state = view.state
    share = state.num_valid / state.num_pairs if state.num_pairs else 0.0
    bar = f'<span class="bar" aria-hidden="true"><i style="width:{share:.1%}"></i></span>'
    steps, envs = state.committed_steps, state.num_envs
    # Of several stores, some may have fewer environments.
    made = (
        f"{steps:,} steps × {envs:,} environments = "
        if steps * envs == state.num_pairs
        else (f"{steps:,} steps of up to {envs:,} environments: ")
    )
    return f"{made}{state.num_pairs:,} pairs<br>{bar}{share:.1%} valid"


def _ends(view: StoreView) -> str:
    words = [f"{view.state.num_trajectories:,} ended"]
    try:
        if view.state.schema.has_ends:
            words.append(f"{count_failed(view):,} of them failed")
        words.append(f"{len(truncated_ids(view)):,} without an end")
    except CorruptStoreError as error:
        words.append(f"damaged: {escape(shown(str(error)))}")
    return ", ".join(words)


def _fields(view: StoreView) -> str:
    rows = [
        [_head(name), f"<td>{dtype}</td>", *map(_number, cells)]
        for name, dtype, *cells in field_rows(view)
    ]
    return f'<div class="wide">{_table(FIELD_HEAD, rows)}</div>'


def _terms(view: StoreView) -> str:
    try:
        terms = told_terms(view.state.schema, view.state.metadata)
    except InputError as error:
        return f"<p>{escape(shown(str(error)))}</p>"
    rows = []
    for field, found in terms.items():
        words = ", ".join(escape(shown(t.label)) for t in found[:_MOST_TERMS])
        rows.append([_head(field), f"<td>{words}</td>"])
    return _folded("observation terms", rows)


def _metadata(view: StoreView) -> str:
    items = [(k, v) for k, v in view.state.metadata.items() if k != TERMS]
    rows = [[_head(shown(k)), f"<td>{escape(shown(v))}</td>"] for k, v in items]
    return _folded("where it comes from", rows)


def _folded(title: str, rows: Sequence[Iterable[str]]) -> str:
    if not rows:
        return ""
    return f"<details><summary>{title}</summary>{_table(None, rows)}</details>"


def _table(head: Sequence[str] | None, rows: Sequence[Iterable[str]]) -> str:
    cells = "".join(
        f'<th scope="col"{_flush(i)}>{escape(name)}</th>' for i, name in enumerate(head or ())
    )
    top = f"<thead><tr>{cells}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table>{top}<tbody>{body}</tbody></table>"


def _flush(column: int) -> str:
    return ' class="n"' if column > 1 else ""


def _head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _number(text: str) -> str:
    return f'<td class="n">{text}</td>'
