"""Links of the documentation. They are written for the repository, so that they work there; on the site they are translated:
to the page that a file has become, or to its bare name where the site has no page of it."""

import logging
import posixpath
import re
from pathlib import Path

from docs_site.results import result_files

ROOT = Path(__file__).parents[1]
# mkdocs counts its warnings, and a strict build with one fails.
LOG = logging.getLogger("mkdocs.hooks.links")
# File of the repository -> page of the site, beside docs/*.md.
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
        uri: the page, as mkdocs names its source.
    """
    source = next((path for path, made in PAGES.items() if made == uri), f"docs/{uri}")
    pieces = CODE.split(markdown)
    # Every second piece is code, in which nothing is a link.
    pieces[::2] = [LINK.sub(lambda link: _translate(link[1], link[2], source, uri), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _translate(text: str, target: str, source: str, uri: str) -> str:
    """A link of the file `source`, as the page `uri` has it."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    to = PAGES.get(named) or (named.removeprefix("docs/") if named.startswith("docs/") else None)
    if to is None:
        if not (ROOT / named).exists():
            LOG.warning("%s has a link to %s, which is no file", source, target)
        return text
    relative = posixpath.relpath(to, posixpath.dirname(uri) or ".")
    return f"[{text}]({relative}{'#' if anchor else ''}{anchor})"
