"""What the site has beside the pages of docs: see mkdocs.yml.

MkDocs calls the functions that begin with `on_`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import command_line  # noqa: E402  (what it is made from lies in ROOT)
import front_door  # noqa: E402
from links import PAGES, SOURCE, for_site, linked_files, page_of  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402
from offline import fetched_from_elsewhere  # noqa: E402
from tables import with_bars  # noqa: E402

log = logging.getLogger("mkdocs.plugins.pbt_flow")
"""A warning of it ends a build that is strict."""
GENERATED: dict[str, Callable[[], str]] = {
    "command line": command_line.markdown,
    "front door": front_door.markdown,
}
"""What stands in a page for a comment that names it."""
_PLACE = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".cff": "yaml",
    ".toml": "toml",
    ".html": "html",
    ".css": "css",
}
"""How the text of a file is coloured; others are shown as they are."""


def on_files(files: Any, config: Any) -> Any:
    """Add the documents at the top of the repository, and each file that a document links to."""
    documents = {f"docs/{one.src_uri}": one.content_string for one in files.documentation_pages()}
    documents |= {name: (ROOT / name).read_text("utf-8") for name in PAGES}
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=shown(documents[name], name)))
    linked = {path for name, text in documents.items() for path in linked_files(text, name)}
    for path in sorted(linked):
        if page_of(path).startswith(f"{SOURCE}/") and (ROOT / path).is_file():
            files.append(File.generated(config, page_of(path), content=source_page(path)))
    return files


def shown(text: str, document: str) -> str:
    """A document that was written for the repository as the site is to show it."""
    return with_bars(for_site(text, document))


def source_page(path: str) -> str:
    """A file of the repository as a page, which the search leaves out."""
    language = LANGUAGES.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".ipynb"):
        language, text = "python", notebook_as_script(text)
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n"
    return f"{head}\n``````{language}\n{text.rstrip()}\n``````\n"


def notebook_as_script(text: str) -> str:
    """The cells of a notebook as editors show it in a script, with its sentences as comments."""
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            source = "\n".join(f"# {line}".rstrip() for line in source.splitlines())
        cells.append(f"# %%\n{source}\n")
    return "\n".join(cells)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page lead where they lead in the repository, and fill in what is made."""
    if page.file.generated_by is not None:
        return markdown
    text = shown(markdown, f"docs/{page.file.src_uri}")
    return _PLACE.sub(lambda place: GENERATED[place[1]](), text)


def on_post_build(config: Any, **_: Any) -> None:
    """Warn of whatever a reader without a network would miss."""
    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for address in fetched_from_elsewhere(path.read_text("utf-8")):
            log.warning("%s fetches %s", path.relative_to(site), address)
