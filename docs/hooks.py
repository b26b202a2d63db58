"""Lets the site show README.md, CONTRIBUTING.md and CHANGELOG.md, and files of the repository that pages link to.

Each text exists once, with links that also work where the repository is browsed; here they are turned into the site's.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the three pages, and every other file of the repository that a page links to."""
    for source, page in PAGES.items():
        text = LINK.sub(lambda link: f"]({_on_the_site(ROOT / link[1])}{link[2] or ''})", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    linked = {
        _on_the_site((path.parent / link[1]).resolve()): (path.parent / link[1]).resolve()
        for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in PAGES)]
        for link in LINK.finditer(path.read_text())
    }
    for uri, path in linked.items():
        if path.is_file() and path.suffix != ".md" and files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Turns links that lead out of docs/ into links on the site."""
    if page.file.src_uri in PAGES.values():
        return markdown
    here = (ROOT / "docs" / page.file.src_uri).parent
    up = "../" * page.file.src_uri.count("/")

    def turned(link: re.Match) -> str:
        target = (here / link[1]).resolve()
        if target.is_relative_to(ROOT / "docs") or not target.exists():
            return link[0]
        return f"]({up}{_on_the_site(target)}{link[2] or ''})"

    return LINK.sub(turned, markdown)


def _on_the_site(path: Path) -> str:
    """Where the site has a file of the repository: pages of docs/ at the root, others under their own path."""
    name = path.relative_to(ROOT).as_posix()
    return PAGES.get(name, name.removeprefix("docs/"))
