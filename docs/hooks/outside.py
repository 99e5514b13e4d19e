"""Bring what the pages link to outside docs/ into the site: other pages as they are, sources as listings.

The pages link to files of the repository by relative paths, as a reader of the repository follows them. Each such file
becomes a page below ``repository/``, and the links lead there, so that the site needs neither a network nor a checkout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
LANGUAGES = {".py": "python", ".toml": "toml", ".csv": "text", ".sh": "bash", ".service": "ini"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file that a page links to outside docs/, and for what these link to."""
    waiting = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    added: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in _outside(page, page.read_text("utf-8")):
            if target not in added:
                added.add(target)
                files.append(_page_of(target, config))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the pages made of their targets."""
    here = page.file.src_uri
    origin = ROOT / here.removeprefix("repository/") if here.startswith("repository/") else DOCS / here

    def rewritten(link: re.Match[str]) -> str:
        target = _target(origin, link["path"])
        if target is None or (target.is_relative_to(DOCS) and origin.is_relative_to(DOCS)):
            return link[0]
        return os.path.relpath(_name(target), Path(here).parent) + (link["anchor"] or "")

    return LINK.sub(rewritten, markdown)


def _outside(page: Path, text: str) -> Iterator[Path]:
    """Files outside docs/ that a page links to."""
    for link in LINK.finditer(text):
        target = _target(page, link["path"])
        if target is not None and not target.is_relative_to(DOCS):
            yield target


def _target(page: Path, link: str) -> Path | None:
    """File of the repository that a relative link names; a directory is its README; None: no such file."""
    if "://" in link or link.startswith("/"):
        return None
    target = Path(os.path.normpath(page.parent / link))
    target = target / "README.md" if target.is_dir() else target
    return target if target.is_relative_to(ROOT) and target.is_file() else None


def _name(target: Path) -> str:
    """Where a file stands among the site's sources."""
    if target.is_relative_to(DOCS):
        return str(target.relative_to(DOCS))
    name = f"repository/{target.relative_to(ROOT)}"
    return name if target.suffix == ".md" else f"{name}.md"


def _page_of(target: Path, config: MkDocsConfig) -> File:
    """Make a page of a file: markdown stays markdown, anything else is listed."""
    text = target.read_text("utf-8")
    if target.suffix != ".md":
        fence = "`" * 6
        text = f"# {target.relative_to(ROOT)}\n\n{fence}{LANGUAGES.get(target.suffix, 'text')}\n{text}\n{fence}\n"
    return File.generated(config, _name(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV)
