"""Count what makes texts hard to read; the counts may only go down.

    python scripts/words.py          # exit code 1: a count is above its ceiling
    python scripts/words.py --list   # every place

- Sentences of more than 25 words in the README and the guides. Code and tables are left out.
- Words of the README and the guides, with their tables; code and captions of pictures are left out.
- Entries under Args, Attributes and Raises in docstrings of the package that begin with a fragment,
  such as "Of the store": they make no sense in a tooltip, where they are read alone.

Whoever lowers a count lowers its ceiling here.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CEILINGS = {"long sentences": 0, "words": 4500, "fragments": 1}
GUIDES = ("recording", "storage", "reading", "training", "exporting", "mosaic", "students")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES))
#: Blocks of code, and comments.
_CODE = r"^(```+).*?^\1[ \t]*$|<!--.*?-->"
_MOST_WORDS = 25
_FRAGMENTS = (
    *("Of", "As", "Whose", "That", "Which", "What", "Likewise", "Where", "Those", "These", "It"),
    *("They", "So"),
)
_FRAGMENT = re.compile(rf"(?:{'|'.join(_FRAGMENTS)})\b")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a Markdown text: no code blocks, tables, headings, pictures and comments."""
    text = re.sub(_CODE, "", text, flags=re.M | re.S)
    text = re.sub(r"^\s*[|#!].*$", "", text, flags=re.M)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # the words of links
    text = re.sub(r"`[^`]*`", "Code", text)
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", text):
        yield from re.split(r"(?<=[.!?:])\s+(?=[A-Z`*])", " ".join(paragraph.split()))


def words() -> Iterator[str]:
    """The words of the README and the guides."""
    for path in PAGES:
        text = re.sub(_CODE, "", path.read_text(), flags=re.M | re.S)
        text = re.sub(r"^\s*!.*$", "", text, flags=re.M)
        text = re.sub(r"`[^`]*`|\]\([^)]*\)|\|", " ", text)
        yield from (word for word in text.split() if re.search("[A-Za-z]", word))


def long_sentences() -> Iterator[str]:
    """Place and words of each."""
    for path in PAGES:
        for sentence in sentences(path.read_text()):
            count = len(sentence.split())
            if count > _MOST_WORDS:
                yield f"{path.relative_to(ROOT)}: {count} words: {sentence}"


def entries(docstring: str) -> Iterator[str]:
    """The entries under Args, Attributes and Raises of a docstring, without their names."""
    for section in re.findall(
        r"^(?:Args|Attributes|Raises):\n((?:    .*\n|\n)+)", docstring + "\n", flags=re.M
    ):
        for entry in re.split(r"^    (?=\S)", section, flags=re.M)[1:]:
            _, colon, words = " ".join(entry.split()).partition(": ")
            if colon:
                yield words


def docstrings() -> Iterator[tuple[str, str]]:
    """Place and text of each docstring of the package."""
    for path in sorted((ROOT / "mosaic_collect").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text:
                name = getattr(node, "name", "")
                yield f"{path.relative_to(ROOT)}:{name}", text


def fragments() -> Iterator[str]:
    """Place and words of each."""
    for place, text in docstrings():
        yield from (f"{place}: {words}" for words in entries(text) if _FRAGMENT.match(words))


def main() -> int:
    """Print the counts; 1 if one is too high."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print every place")
    listed = parser.parse_args().list
    found = {
        "long sentences": [*long_sentences()],
        "words": [*words()],
        "fragments": [*fragments()],
    }
    for name, places in found.items():
        print(f"{name}: {len(places)}, at most {CEILINGS[name]}")
        if listed and name != "words":
            print("\n".join(f"  {place}" for place in places))
    total = sum(len([*entries(text)]) for _, text in docstrings())
    print(f"entries of docstrings: {total}")
    return int(any(len(places) > CEILINGS[name] for name, places in found.items()))


if __name__ == "__main__":
    sys.exit(main())
