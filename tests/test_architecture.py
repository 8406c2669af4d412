"""docs/architecture.md says which folders import which and what each folder provides; both are compared with the code."""

import ast
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vldd_dist"
PAGE = (ROOT / "docs/architecture.md").read_text()
# The limit in lines.
LONGEST_FILE, MEDIAN_FILE = 350, 120
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@cache
def imports(module: str) -> frozenset[str]:
    """The dotted names that a module imports, at its top or within functions: modules, and names in them."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def part_of(module: str) -> str:
    """The folder of the package, or the name of a file beside the folders."""
    return module.partition("/")[0].removesuffix(".py")


PARTS = {part_of(module) for module in MODULES}


def own(module: str) -> set[str]:
    """Parts of the package that a module of another part imports."""
    names = {name.split(".")[1] for name in imports(module) if name.startswith("vldd_dist.")}
    return names & PARTS - {part_of(module)}


def test_every_form_of_import_is_seen(tmp_path: Path) -> None:
    made = tmp_path / "made.py"
    lines = (
        "import vldd_dist.store.store",
        "from vldd_dist import load_distilled, monitoring",
        "from vldd_dist.data import scenes",
    )
    made.write_text("\n".join(lines))
    assert own(str(made)) == {"store", "monitoring", "data"}


def test_the_page_names_who_imports_ray() -> None:
    (named,) = re.findall(r"Only these files import ray: (.*?)\. ", PAGE)
    patterns = re.findall(r"`([^`]+)`", named)
    importing = [module for module in MODULES if any(name.split(".")[0] == "ray" for name in imports(module))]
    assert importing
    assert [module for module in importing if not any(fnmatch(module, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(module, pattern) for module in importing)] == []


def test_one_file_imports_timm_and_transformers() -> None:
    """Importing them takes seconds, and needs a torchvision that can be imported; `models.libraries` handles both."""
    slow = {"timm", "transformers", "torchvision"}
    assert [module for module in MODULES if slow & {name.split(".")[0] for name in imports(module)}] == []


LEAVES = (
    "errors",
    "events",
    "extras",
    "method_names",
    "plugins",
    "recall_metrics",
    "seeding",
    "control_characters",
    "in_order",
    "logs",
    "strict_json",
    "strict_model",
    "training_loop",
)


@pytest.mark.parametrize("leaf", ["events", "extras", "method_names", "recall_metrics"])
def test_some_leaves_import_only_the_standard_library(leaf: str) -> None:
    assert {name.split(".")[0] for name in imports(f"{leaf}.py")} <= sys.stdlib_module_names


def test_records_have_one_strict_base() -> None:
    """Records would otherwise differ in whether they accept NaN; sections of the description have a base of their own."""
    strict = [module for module in MODULES if re.search(r"ConfigDict\([^)]*frozen=True", (PACKAGE / module).read_text())]
    assert strict == ["config/base.py", "strict_model.py"]


def levels() -> list[set[str]]:
    """The folders, in the order of the page's chain."""
    (chain,) = re.findall(r"Imports go one way: `jobs -> (.*?)`", PAGE)
    return [set(re.findall(r"\w+", level)) for level in chain.split(" -> ")]


def test_imports_go_one_way() -> None:
    chain = levels()
    below = {name: set().union(*chain[level + 1 :]) for level, names in enumerate(chain) for name in names}
    allowed = {name: {*names, "config", *LEAVES} for name, names in below.items()}
    (importing,) = re.findall(r"Only ([^.]*) import `reporting`", PAGE)
    for name in re.findall(r"\w+", importing.replace(" and ", " ")):
        allowed[name].add("reporting")
    reporting = {"method_names", "recall_metrics", "strict_model"}
    allowed |= {"config": set(LEAVES), "reporting": reporting, "testing": {*below, "config", *LEAVES}}
    allowed |= {leaf: set(LEAVES) for leaf in LEAVES} | {"__init__": {*below, "config"}}
    assert set(allowed) == PARTS, "every folder and file has its place in the page's chain"
    upwards = [(module, name) for module in MODULES for name in own(module) if name not in allowed[part_of(module)]]
    assert upwards == []


def test_no_files_import_each_other_in_a_circle() -> None:
    dotted = {module: f"vldd_dist.{module.removesuffix('.py').replace('/', '.')}" for module in MODULES}
    named = {name.removesuffix(".__init__"): module for module, name in dotted.items() if module != "__init__.py"}
    unfinished = {module: {named[name] for name in imports(module) & named.keys()} - {module} for module in MODULES}
    while free := [module for module, needed in unfinished.items() if not needed]:
        for module in free:
            del unfinished[module]
        for needed in unfinished.values():
            needed.difference_update(free)
    assert unfinished == {}, "these files are in an import cycle, or import a file that is"


def test_nothing_is_imported_from_modules_of_tests() -> None:
    """What several of them need is in a module named for it, which loads no more than it needs itself."""
    files = [path for folder in ("tests", "benchmarks", "docs_site") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    imported = {(str(path.relative_to(ROOT)), name) for path in files for name in imports(str(path))}
    assert [(file, name) for file, name in sorted(imported) if re.match(r"tests\.(\w+\.)*test_", name)] == []


def committed(pattern: str = "*") -> list[str]:
    """The files that git knows, relative to the root."""
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


def test_output_of_programs_is_not_committed() -> None:
    """A store's URL that is read as a path, for example, gives a folder `file:`."""
    folders = {name.partition("/")[0] for name in committed() if "/" in name}
    sources = {"benchmarks", "cluster", "docs", "docs_site", "examples", "jobs", "storage_schemas", "tests", "vldd_dist"}
    assert folders == {".ci", ".github", *sources}


def test_no_file_is_long() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in committed("*.py") if (ROOT / name).exists()}
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}, "split these files by topic"
    assert median(lengths.values()) <= MEDIAN_FILE


# A section of a docstring at its beginning, or with lines that are not indented.
WRONG_SECTION = re.compile(r"(?:\A(?:{0}):)|(?:^(?:{0}):\n(?! ))".format("Args|Attributes|Returns|Raises|Yields"), re.MULTILINE)


def test_docstrings_begin_with_a_summary_and_indent_their_sections() -> None:
    """`help` and the pages of the reference show the first line as a summary, and take indented lines only for a section's."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        (module, text)
        for module in MODULES
        for node in ast.walk(ast.parse((PACKAGE / module).read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
    ]
    assert len(docstrings) > 1000
    assert [(module, text) for module, text in docstrings if WRONG_SECTION.search(text)] == []


def test_the_diagram_has_the_arrows_of_the_chain() -> None:
    diagram = PAGE[PAGE.index("flowchart TD") :].partition("```")[0]
    chain = levels()
    rank = {name: level for level, names in enumerate(chain) for name in names} | {"reporting": len(chain)}
    arrows = re.findall(r"^  ([\w &]+) --> (.*)$", diagram, re.MULTILINE)
    pairs = [(a, b) for left, right in arrows for a in re.findall(r"\w+", left) for b in re.findall(r"\w+", right)]
    assert {name for pair in pairs for name in pair} == set(rank)
    assert [pair for pair in pairs if rank[pair[0]] >= rank[pair[1]]] == []
    imported = {(part_of(module), name) for module in MODULES for name in own(module)}
    assert set(pairs) - imported == set(), "no file of the one folder imports the other"


def test_the_unroll_imports_torch_numpy_and_nothing_of_ours() -> None:
    found = set().union(*(imports(module) for module in MODULES if module.startswith("distillation/unroll/")))
    outside = {name for name in found if not name.startswith("vldd_dist.distillation.unroll")}
    assert {name.split(".")[0] for name in outside} - sys.stdlib_module_names == {"torch", "numpy"}


READERS, TOWERS = ["webdataset", "s3fs"], ["timm", "transformers", "torchvision"]
ABOVE_THE_SCHEDULER = [f"vldd_dist.{name}" for name in ("ray_backend", "monitoring", "reporting", "planner", "cli")]
# Folders, and what is absent when they and those before them have been loaded.
LOADED = [
    (
        ["models", "sharding", "distillation", "evaluation", "artifacts", "distilled_set"],
        [*READERS, "ray", "deepspeed", *TOWERS],
    ),
    (["scheduler"], ["ray", *TOWERS, *ABOVE_THE_SCHEDULER]),
    (["planner", "pipeline", "monitoring"], ["ray", *TOWERS]),
    (["ray_backend"], TOWERS),
]
LOAD = """
import importlib, json, sys
from pathlib import Path
for folders, absent in json.loads(sys.argv[1]):
    for folder in folders:
        files = sorted(Path("vldd_dist", folder).rglob("*.py"))
        assert files, folder
        for path in files:
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    print(folders, [name for name in absent if name in sys.modules])
"""


def test_parts_load_without_libraries_that_they_do_not_need() -> None:
    program = [sys.executable, "-c", LOAD, json.dumps(LOADED)]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [f"{folders} []" for folders, _ in LOADED]


PLANNED = """
import sys
sys.modules["ray"] = None
from vldd_dist.cli.main import main
main(["run", "scenes", "--plan", "--until", "data"])
"""


def test_a_run_is_planned_where_ray_is_not_installed() -> None:
    ended = subprocess.run([sys.executable, "-c", PLANNED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "scenes" in ended.stdout


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading row."""
    table = PAGE[PAGE.index(heading) :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_each_part_offers_what_the_page_names() -> None:
    described = rows("| folder or file | what it offers |")
    assert len(described) >= 10
    for names, offered in described:
        inside = [module for module in MODULES if part_of(module) in re.findall(r"\w+", names)]
        text = "\n".join((PACKAGE / module).read_text() for module in inside)
        files = {part.removesuffix(".py") for module in inside for part in module.split("/")}
        for name in (name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", offered)):
            assert name in files or re.search(rf"(def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE), (names, name)
