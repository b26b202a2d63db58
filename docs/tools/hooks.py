"""Builds the site from texts and names that exist once.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, and files of the repository that a page links to are copied.
Their links also work where the repository is browsed; here they are turned into the site's. A line `::: gaejax.ppo` of
the API reference is turned into a reference to where the object is defined, so that it survives moves of modules and
is not mistaken for a module of the same name.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
WIDE = "---\nhide: [navigation]\n---\n"  # for pages that are alone in their section
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")
REFERENCE = re.compile(r"^::: (gaejax[\w.]*)\.(\w+)$", flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the three pages, and every other file of the repository that a page links to."""
    for source, page in PAGES.items():
        text = LINK.sub(lambda link: f"]({_on_the_site(ROOT / link[1])}{link[2] or ''})", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=WIDE + text))
    for path in [*DOCS.glob("*.md"), *(ROOT / name for name in PAGES)]:
        for link in LINK.finditer(path.read_text()):
            target = (path.parent / link[1]).resolve()
            uri = _on_the_site(target)
            if target.is_file() and target.suffix != ".md" and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links that lead out of docs/ into links on the site, and finds the objects of the API reference."""
    if page.file.src_uri in PAGES.values():
        return markdown
    here, up = (DOCS / page.file.src_uri).parent, "../" * page.file.src_uri.count("/")

    def turned(link: re.Match) -> str:
        target = (here / link[1]).resolve()
        if target.is_relative_to(DOCS) or not target.exists():
            return link[0]
        return f"]({up}{_on_the_site(target)}{link[2] or ''})"

    return REFERENCE.sub(_defined, LINK.sub(turned, markdown))


def _defined(reference: re.Match) -> str:
    """The directive of an object where it is defined, under its public name."""
    public = getattr(importlib.import_module(reference[1]), reference[2])
    heading = f"    options:\n      heading: {reference[1]}.{reference[2]}\n      toc_label: {reference[2]}"
    if not getattr(public, "__module__", "").startswith("gaejax") or not hasattr(public, "__qualname__"):
        return f"{reference[0]}\n{heading}"  # a constant
    return f"::: {public.__module__}.{public.__qualname__}\n{heading}"


def _on_the_site(path: Path) -> str:
    """Where the site has a file of the repository: pages of docs/ at the root, others under their own path."""
    name = path.relative_to(ROOT).as_posix()
    return PAGES.get(name, name.removeprefix("docs/"))
