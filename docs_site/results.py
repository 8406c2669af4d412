"""The pages of benchmarks/results, which are pages of the site, and their overview, which lists them with their commands."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks" / "results"
# A command, in a code block or in the text.
COMMAND = re.compile(r"(?:python -m benchmarks\.|vldd )[^\n`]+")
HEAD = """# Results

Measurements. Each page begins with the command for its figures, and says which figures have another origin. They were measured
on two cores of an AMD EPYC, without a GPU; pages say where other programs ran at the same time. The pages are files of the
repository in `benchmarks/results/`.

| page | first command |
|:---|:---|
"""


def result_files() -> list[Path]:
    return sorted(FOLDER.glob("*.md"))


def title_of(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ")


def results_page() -> str:
    rows = []
    for path in result_files():
        command = COMMAND.search(path.read_text())
        rows.append(f"| [{title_of(path)}]({path.name}) | {f'`{command[0]}`' if command else ''} |")
    return HEAD + "\n".join(rows) + "\n"
