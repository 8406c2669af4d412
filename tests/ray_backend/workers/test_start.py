"""The modules that a worker process imports before it starts a unit."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def late_needs(path: Path) -> set[str]:
    """The modules that a module imports from our package within functions, and the data files that it reads."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    imports = {node.module for node in inside if isinstance(node, ast.ImportFrom) and node.module}
    files = {ast.unparse(node) for node in inside if isinstance(node, ast.Call) and ast.unparse(node.func) == "resources.files"}
    return {name for name in imports if name.startswith("vldd_dist.")} | files


def test_a_worker_that_has_begun_needs_nothing_of_our_package_any_more() -> None:
    """The folder of the package may have been removed by then."""
    program = "import sys, vldd_dist.ray_backend.workers.worker; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert "vldd_dist.distilled_set.publishing.presentation" in loaded
    paths = {name: ROOT / f"{name.replace('.', '/')}.py" for name in loaded if name.startswith("vldd_dist.")}
    late = {name: late_needs(path) - loaded for name, path in paths.items() if path.exists()}
    assert {name: needs for name, needs in late.items() if needs} == {}
