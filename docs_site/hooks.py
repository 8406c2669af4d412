"""Hooks of mkdocs. They add pages to docs/*.md: pages generated from the code, and Markdown files elsewhere in the
repository. And they see to it that no page loads anything from another host."""

import logging
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site.commands import commands_page
from docs_site.links import PAGES, ROOT, translate_all
from docs_site.offline import loaded_from_elsewhere, with_mermaid
from docs_site.plugins import plugins_page
from docs_site.results import result_files, results_page, title_of
from docs_site.settings import settings_page

# A logger of mkdocs, so that a warning makes a strict build fail.
LOG = logging.getLogger("mkdocs.hooks.offline")
GENERATED = {
    "reference/settings.md": settings_page,
    "reference/plugins.md": plugins_page,
    "reference/commands.md": commands_page,
    "results/index.md": results_page,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    (pages,) = (entry["Results"] for entry in config.nav or [] if "Results" in entry)
    pages += [{title_of(path): f"results/{path.name}"} for path in result_files()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    uri = page.file.src_uri
    return markdown if uri in GENERATED else translate_all(markdown, uri)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    return with_mermaid(html, page.url)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    for address in loaded_from_elsewhere(output):
        LOG.warning("%s loads %s when it is opened: keep the file in docs/ instead", page.file.src_uri, address)
    return output
