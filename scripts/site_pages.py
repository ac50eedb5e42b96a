"""Pages of the site that are not files of docs/.

A hook of MkDocs (mkdocs.yml). Each page is made of the one file that there is:

    README.md and others         the front page, the changelog, how to contribute
    docs/notebooks/*.ipynb       as Markdown
    mosaic_collect/commands      a page per command, of its options
    docs/api.md                  a page per name that it lists, with the example behind it
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mosaic_collect  # noqa: E402  that of this checkout
from mosaic_collect.cli import help_text  # noqa: E402
from mosaic_collect.commands import COMMANDS, command  # noqa: E402
from mosaic_collect.commands.options import example_of, parser_of, summary_of, wrapped  # noqa: E402

_ROOT_PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
#: An entry of docs/api.md, and the example behind it.
_ENTRY = re.compile(r"^::: (mosaic_collect\.\S+)\n((?:(?!:::|## ).*\n?)*)", re.M)


def on_config(config: MkDocsConfig) -> None:
    """Put the generated pages into the navigation, behind the guides."""
    commands = [{name: f"commands/{name}.md"} for name in COMMANDS]
    api = [{name: page} for name, page in _api_pages().items()]
    assert config.nav is not None
    at = [next(iter(entry)) for entry in config.nav].index("Guides") + 1
    config.nav[at:at] = [
        {"Command line": [{"Overview": "commands.md"}, *commands]},
        {"Python API": [{"Overview": "api.md"}, *api]},
    ]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages; files that they are made of are left out."""

    def add(page: str, content: str | bytes) -> None:
        files.append(File.generated(config, page, content=content))

    for page, source in _ROOT_PAGES.items():
        add(page, (ROOT / source).read_text())
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text, resources = MarkdownExporter().from_filename(file.abs_src_path)
        page = Path(file.src_uri).with_suffix(".md")
        add(str(page), text)
        for name, content in resources["outputs"].items():
            add(str(page.parent / name), content)
    add("commands.md", _commands())
    for name in COMMANDS:
        add(f"commands/{name}.md", _command(name))
    files.remove(files.get_file_from_path("api.md"))
    add("api.md", _ENTRY.sub(_row, (ROOT / "docs" / "api.md").read_text()))
    for name, page in _api_pages().items():
        entries = {entry: more for entry, more in _entries().items() if _page_of(entry) == page}
        head = f"# {name}\n\n" if len(entries) > 1 else ""
        level = 2 if len(entries) > 1 else 1
        options = f"    options:\n      heading_level: {level}\n"
        example = f"\n{'#' * (level + 1)} Example\n\n"
        bodies = (f"::: {e}\n{options}{more and example + more}" for e, more in entries.items())
        add(page, head + "\n".join(bodies))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links as they are in the repository become links of the site."""
    markdown = markdown.replace("](docs/", "](")
    for page, source in _ROOT_PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({page}", markdown)
    return re.sub(r"(\]\([^)\s]+)\.ipynb", r"\1.md", markdown)


def _commands() -> str:
    rows = [f"| [`{n}`](commands/{n}.md) | {summary_of(command(n))[0]} |" for n in COMMANDS]
    codes = str(sys.modules[help_text.__module__].__doc__).split("Exit codes:")[1]
    return "\n".join(
        [
            "# The command line",
            "",
            "`mosaic-collect COMMAND --help` prints what these pages show. Option names may have",
            "underscores: `--num_envs` is `--num-envs`. A command that reads a store also takes",
            "several stores, a quoted pattern such as `'runs/*.zarr'`, a folder of ranks, and URLs",
            "such as `s3://bucket/run.zarr`.",
            "",
            *("| command | |", "| --- | --- |", *rows, ""),
            *("## Exit codes", "", "```text", codes.strip("\n"), "```"),
        ]
    )


def _command(name: str) -> str:
    kind = command(name)
    summary, text = summary_of(kind)
    lines = [f"# mosaic-collect {name}", "", summary, "", _cell(text), ""]
    lines += ["```text", wrapped(example_of(kind), "", 78), "```", ""]
    for group in parser_of(name, kind)._action_groups:
        title = str(group.title)
        heading = {"positional arguments": "Arguments", "options": "Options"}.get(title, title)
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        lines += [
            f"## {heading[:1].upper()}{heading[1:]}",
            "",
            "| option | meaning |",
            "| --- | --- |",
        ]
        lines += [f"| {_flags(action)} | {_cell(str(action.help))} |" for action in actions]
        lines.append("")
    return "\n".join(lines)


def _flags(action: argparse.Action) -> str:
    choices = ", ".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper()) if action.nargs != 0 else ""
    return "<br>".join(f"`{f'{flag} {value}'.strip()}`" for flag in action.option_strings or [""])


def _cell(text: str) -> str:
    text = text.replace("%%", "%").replace("|", "\\|")
    text = text.replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", text)


def _entries() -> dict[str, str]:
    """Name -> the example behind it."""
    found = _ENTRY.findall((ROOT / "docs" / "api.md").read_text())
    return {name: example.strip() for name, example in found}


def _page_of(entry: str) -> str:
    name = entry.rpartition(".")[2]
    return "api/errors.md" if name.endswith("Error") else f"api/{name}.md"


def _api_pages() -> dict[str, str]:
    """Title -> page; errors share one."""
    pages = {_page_of(entry): entry.rpartition(".")[2] for entry in _entries()}
    return {("Errors" if page == "api/errors.md" else name): page for page, name in pages.items()}


def _row(entry: re.Match[str]) -> str:
    """A list entry: the name, linked, and the first line of its docstring."""
    name = entry[1].rpartition(".")[2]
    anchor = f"#{entry[1]}" if name.endswith("Error") else ""
    return f"- [`{name}`]({_page_of(entry[1])}{anchor}): {_summary(entry[1])}\n"


def _summary(entry: str) -> str:
    """The first line of a docstring, which is read without an import: some need torch."""
    module, _, name = entry.rpartition(".")
    if module == "mosaic_collect":
        module = mosaic_collect._HOMES[name]
    while (spec := find_spec(module)) is not None and spec.origin is not None:
        for node in ast.parse(Path(spec.origin).read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return (ast.get_docstring(node) or "").split("\n")[0].replace("``", "`")
            if isinstance(node, ast.ImportFrom) and name in [a.name for a in node.names]:
                module = str(node.module)
                break
        else:
            break
    raise ValueError(f"{entry}: no such class or function in {module}")
