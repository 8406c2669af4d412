"""Links in the documentation. They are written relative to the repository, so that they work there. For the site they are
translated to the page that is made from the file, or to plain text if the site has no such page."""

import logging
import posixpath
import re
from pathlib import Path

from docs_site.results import result_files

ROOT = Path(__file__).parents[1]
# A logger of mkdocs, so that a warning makes a strict build fail.
LOG = logging.getLogger("mkdocs.hooks.links")
# File of the repository -> page of the site, for files outside docs/.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "storage_schemas/README.md": "storage.md",
    **{str(path.relative_to(ROOT)): f"results/{path.name}" for path in result_files()},
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def translate_all(markdown: str, uri: str) -> str:
    """A page's text with its links translated.

    Args:
        uri: path of the page's source in mkdocs.
    """
    source = next((path for path, made in PAGES.items() if made == uri), f"docs/{uri}")
    pieces = CODE.split(markdown)
    # Every second piece is code, which has no links.
    pieces[::2] = [LINK.sub(lambda link: _translate(link[1], link[2], source, uri), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _translate(text: str, target: str, source: str, uri: str) -> str:
    """The link in the page `uri` for a link in the file `source`."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    if page is None:
        if not (ROOT / file).exists():
            LOG.warning("%s has a link to %s, which does not exist", source, target)
        return text
    relative = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    return f"[{text}]({relative}{'#' if anchor else ''}{anchor})"
