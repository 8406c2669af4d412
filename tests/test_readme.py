"""The README's example runs on a set that a real run published, in a process without the training libraries."""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.distilled_sets import distilled_set, with_similarity
from vldd_dist.distilled_set import distilled
from vldd_dist.distilled_set.publishing.write import save

ROOT = Path(__file__).parents[1]

SETS = {
    "infonce": distilled_set,
    "low rank": lambda: with_similarity({"kind": "low_rank", "rank": 2}),
    "full": lambda: with_similarity({"kind": "full"}),
}


# The only installed packages that can be imported: these and their requirements, which suffice to load a set and train on it.
PRESENT = ("torch", "numpy", "safetensors", "fsspec", "pydantic", "tenacity")
FINDER = """
import sys
from importlib.machinery import PathFinder
class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyThese()
"""


def _distributions_needed(names: Iterable[str]) -> set[str]:
    """The packages and everything that they require directly or indirectly, without extras."""
    needed, left = set(), list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in needed:
            needed.add(name)
            requirements = map(Requirement, _requires(name))
            left += [need.name for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]
    return needed


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def test_the_docstring_names_the_packages_that_a_set_needs() -> None:
    (named,) = re.findall(r"It needs (.*): no training library", distilled.__doc__ or "")
    assert set(re.split(r", | and ", named)) == set(PRESENT)


def test_the_example_trains_where_only_the_named_packages_are(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    present = _distributions_needed(PRESENT) | {"vldd-dist"}
    absent = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not present & {canonicalize_name(name) for name in distributions}
    }
    assert {"ray", "deepspeed", "timm", "transformers", "webdataset", "s3fs", "PIL", "yaml", "typer"} <= absent
    program = f"ABSENT = {sorted(absent)}\n{FINDER}"
    for name, made in SETS.items():
        save(made(), str(tmp_path / name))
        program += code.replace('"URL"', repr(str(tmp_path / name)))
        program += "\nprint(losses[-1] > 0, sorted(set(ABSENT) & set(sys.modules)))\ndel losses\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    by_example, by_test = ended.stdout.splitlines()[::2], ended.stdout.splitlines()[1::2]
    assert all(re.fullmatch(r"loss: \d\.\d\d in the first epoch, \d\.\d\d in the last", line) for line in by_example)
    assert by_test == ["True []"] * len(SETS)


# Column of README's table of equal bytes -> row of the tables in the results.
ROWS = {
    "LoRS": "LoRS",
    "trajectory matching": "trajectory matching (VLDD)",
    "PTM-ST": "PTM-ST, one phase",
    "`bilevel`": "bilevel, eNCE with a full similarity (ours)",
}


@pytest.mark.parametrize(("pairs", "heading"), [(100, "### Tuned alike, five distillations each"), (200, "### 200 pairs")])
def test_the_table_of_equal_bytes_has_the_means_of_the_results(pairs: int, heading: str) -> None:
    results = (ROOT / "benchmarks/results/methods.md").read_text().split(heading)[1].split("\n##")[0]
    found = {cells[0].strip("* "): cells[2].strip("* ").split()[0] for cells in _table(results)[2:]}
    readme = (ROOT / "README.md").read_text()
    head, _, *rows = _table(readme[readme.index("| bytes of |") :])
    (row,) = (cells for cells in rows if cells[0].startswith(f"{pairs} pairs"))
    shown = {name: value.strip("* ") for name, value in zip(head, row, strict=True)}
    assert {name: shown[name] for name in ROWS} == {name: found[of_results] for name, of_results in ROWS.items()}
    real = ("random", "herding", "k-center", "forgetting", "k-means", "facility location", "CLIP score")
    assert shown["best selection of real pairs"] == max((found[name] for name in real), key=float)


def _table(text: str) -> list[list[str]]:
    """The cells of the first table of a Markdown text, also of the line below the head."""
    after = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    lines = itertools.takewhile(lambda line: line.startswith("|"), after)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
