"""What mkdocs builds beside docs/*.md: pages generated from the code, and files of the repository that are pages of the site.

Links are written for the repository, so that they work there too. Here they are translated: to the page that a file has become,
or to its bare name where the site has no page of it. A link to nothing is a warning, which a strict build makes an error.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site.commands import commands_page
from docs_site.plugins import plugins_page
from docs_site.settings import settings_page

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.hooks.links")
RESULTS = "benchmarks/results"
# File of the repository -> page of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "storage_schemas/README.md": "storage.md",
    **{f"{RESULTS}/{path.name}": f"results/{path.name}" for path in sorted((ROOT / RESULTS).glob("*.md"))},
}
GENERATED = {
    "reference/settings.md": settings_page,
    "reference/plugins.md": plugins_page,
    "reference/commands.md": commands_page,
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    uri = page.file.src_uri
    if uri in GENERATED:
        return markdown
    source = next((path for path, made in PAGES.items() if made == uri), f"docs/{uri}")
    pieces = CODE.split(markdown)
    # Every second piece is code, in which nothing is a link.
    pieces[::2] = [LINK.sub(lambda link: translate(*link.groups(), source, uri), piece) for piece in pieces[::2]]
    return "".join(pieces)


def translate(text: str, target: str, source: str, uri: str) -> str:
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
