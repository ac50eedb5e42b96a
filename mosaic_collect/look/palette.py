"""Colours that the blind to red and green tell apart, and that differ in lightness for print.

Okabe and Ito's hues. Failed is the darkest on paper and the brightest on a dark screen; what was
truncated is hatched besides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours by what they stand for, each ``#rrggbb`` and no two alike.

    Attributes:
        paper: Behind all.
        ink: Text and axes.
        faint: Lines of the grid.
        ended: Trajectories that ended as they should, in turn with ``ended2``.
        ended2: The other shade of those.
        failed: Trajectories that failed, and whatever is wrong.
        truncated: Trajectories without an end.
        open: Those that are going on.
        invalid: Rows that do not count.
        line2, line3, line4, line5, line6: For curves, behind ``ended``.
    """

    paper: str
    ink: str
    faint: str
    ended: str
    ended2: str
    failed: str
    truncated: str
    open: str
    invalid: str
    line2: str
    line3: str
    line4: str
    line5: str
    line6: str

    @property
    def lines(self) -> tuple[str, ...]:
        """Six colours of curves."""
        return (self.ended, self.line2, self.line3, self.line4, self.line5, self.line6)

    def css(self) -> str:
        """Declarations of CSS variables, ``--c-`` and the name."""
        return ";".join(f"--c-{f.name}:{getattr(self, f.name)}" for f in fields(self))

    def to_css(self, svg: str) -> str:
        """An SVG drawn in these colours, with variables in their place."""
        names = {getattr(self, f.name): f"var(--c-{f.name})" for f in fields(self)}
        return re.sub(r"#[0-9a-f]{6}\b", lambda m: names.get(m[0], m[0]), svg)


LIGHT = Palette(
    paper="#ffffff",
    ink="#1c1d21",
    faint="#d9dade",
    ended="#2f77b4",
    ended2="#8bbce0",
    failed="#99103b",
    truncated="#e69a0c",
    open="#0d8f68",
    invalid="#e9e9ec",
    line2="#c2570c",
    line3="#0f8a6c",
    line4="#a6548b",
    line5="#8a6d00",
    line6="#5b5e66",
)
DARK = Palette(
    paper="#16181d",
    ink="#e7e8ea",
    faint="#3d4048",
    ended="#58a6e8",
    ended2="#2f6ba3",
    failed="#ff7d95",
    truncated="#f7cf63",
    open="#3ccb9b",
    invalid="#2b2e35",
    line2="#f0915a",
    line3="#4fd0ae",
    line4="#d99cc5",
    line5="#d9c04a",
    line6="#b3b6be",
)
THEMES = {"light": LIGHT, "dark": DARK}
