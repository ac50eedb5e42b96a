"""Pages of the site that are not files of docs/: the README, the changelog, the notebooks.

A hook of MkDocs (mkdocs.yml). Each page is made out of the one file that there is.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add them; of the notebooks the files themselves are left out."""
    root = Path(config.config_file_path).parent
    for page, source in {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}.items():
        files.append(File.generated(config, page, content=(root / source).read_text()))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text, resources = MarkdownExporter().from_filename(file.abs_src_path)
        page = Path(file.src_uri).with_suffix(".md")
        files.append(File.generated(config, str(page), content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, str(page.parent / name), content=content))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links as they are in the repository become links of the site."""
    links = {r"docs/": "", r"\.\./README\.md": "index.md", r"CHANGELOG\.md": "changelog.md"}
    for there, here in links.items():
        markdown = re.sub(rf"\]\({there}", f"]({here}", markdown)
    return re.sub(r"(\]\([^)\s]+)\.ipynb", r"\1.md", markdown)
