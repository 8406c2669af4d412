"""Hooks of mkdocs, which add pages to docs/*.md: pages generated from the code, and Markdown files elsewhere in the
repository."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site.commands import commands_page
from docs_site.links import PAGES, ROOT, translate_all
from docs_site.plugins import plugins_page
from docs_site.results import result_files, results_page, title_of
from docs_site.settings import settings_page

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
