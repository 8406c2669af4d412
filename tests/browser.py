"""What Chromium shows of a page. Where there is no Chromium, the fixture `browser` skips the test."""

import re
import subprocess
from pathlib import Path

from vldd_dist.testing.experiments.tiny import HANG_SECONDS

OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
OPTIONS += ("disable-component-update", "allow-file-access-from-files", "host-resolver-rules=MAP * ~NOTFOUND", "dump-dom")


def seen_by(browser: str, html: str, width: int, expression: str, folder: Path, wait_ms: int = 0) -> list[int]:
    """Numbers that the browser measures on a page in a window of this width, in pixels. It reaches no other host.

    Args:
        expression: JavaScript of an array, or of a promise of one; `page` is the document, `root` its root element and `view`
            its window.
        wait_ms: a promise may take up to this long, in the browser's own time, which does not wait for anything but loading.
    """
    (folder / "page.html").write_text(html)
    # A headless window cannot be narrower than some width above 390 px, but a frame can; the outer page reports what is in it.
    probe = folder / "probe.html"
    probe.write_text(
        f'<iframe id="screen" width="{width}" height="800" style="border: 0" src="page.html"></iframe><script>'
        "onload = async () => { const view = document.getElementById('screen').contentWindow;"
        "const page = view.document, root = page.documentElement;"
        f"document.body.dataset.found = (await ({expression})).join(); }}</script>"
    )
    options = [*OPTIONS, f"user-data-dir={folder / 'profile'}", *([f"virtual-time-budget={wait_ms}"] if wait_ms else [])]
    dumped = subprocess.run(
        [browser, "--headless", *(f"--{option}" for option in options), probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    ).stdout
    found = re.search(r'data-found="([\d,]+)"', dumped)
    assert found, dumped[-500:]
    return [int(number) for number in found[1].split(",")]
