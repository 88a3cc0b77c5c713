"""Where a link of a document leads on the site: to a page, a picture, or a file shown as a page.

The documents are written for the repository. There a link may lead to any file; the site has the
folder docs, and what it is told to have beside it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""The documents at the top of the repository, and the pages that they are."""
SOURCE = "source"
"""The folder of the site that shows files of the repository."""
_FENCED = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^()#:\s]+)(?=(?:#[^()\s]*)?\))")
"""The path in a link to a file: neither an address nor a mere section."""


def page_of(path: str) -> str:
    """The site's file for a file of the repository; both are paths from the root, with `/`."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and path.endswith((".md", ".png", ".svg")):
        return path.removeprefix("docs/")
    # MkDocs passes over names that begin with a dot.
    visible = re.sub(r"(^|/)\.", r"\1", path)
    return f"{SOURCE}/{visible}.md"


def linked_files(text: str, document: str) -> Iterator[str]:
    """The files that a document links to, as paths from the root of the repository."""
    for prose in _FENCED.sub("", text).splitlines():
        for found in _LINK.finditer(prose):
            yield _path(found[1], document)


def for_site(text: str, document: str) -> str:
    """A document whose links lead where they lead in the repository, but on the site.

    Args:
        text: The document.
        document: Its path from the root of the repository.
    """
    folder = posixpath.dirname(page_of(document)) or "."

    def moved(found: re.Match[str]) -> str:
        return posixpath.relpath(page_of(_path(found[1], document)), folder)

    return _outside_of_blocks(text, lambda prose: _LINK.sub(moved, prose))


def _path(target: str, document: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), target))


def _outside_of_blocks(text: str, change: Callable[[str], str]) -> str:
    parts, end = list[str](), 0
    for block in _FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])
