"""Pages that load nothing from another host, so that they are whole without internet."""

import re
from html.parser import HTMLParser
from pathlib import PurePosixPath
from posixpath import relpath

# Draws the diagrams of docs/*.md (package @mermaid-js/tiny of npm). mkdocs-material would load it from unpkg.com.
MERMAID = "javascripts/mermaid-11.17.2.tiny.js"
LOADING = {"src", "srcset", "poster", "data"}
# Of a <link>; others, such as canonical, name an address and load nothing.
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}


def with_mermaid(html: str, page: str) -> str:
    """The content of a page, with the script that draws its diagrams if it has any.

    Args:
        page: path of the page in the site, such as `tutorials/cluster.html`.
    """
    if 'class="mermaid"' not in html:
        return html
    return f'{html}\n<script src="{relpath(MERMAID, PurePosixPath(page).parent)}"></script>'


def loaded_from_elsewhere(html: str) -> list[str]:
    """Addresses on other hosts from which a browser would load a part of this page, in the order of the page."""
    return _Loads(html).found


class _Loads(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_style = tag == "style"
        values = dict(attrs)
        relations = set((values.get("rel") or "").split())
        loading = LOADING | ({"href"} if tag == "link" and relations & LOADING_RELATIONS else set())
        self.found += [value for name, value in attrs if value and name in loading and _on_a_host(value)]
        self._style(values.get("style") or "")

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self._style(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def _style(self, css: str) -> None:
        self.found += re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s;]+)""", css)


def _on_a_host(address: str) -> bool:
    return re.search(r"(^|,\s*)(https?:)?//", address) is not None
