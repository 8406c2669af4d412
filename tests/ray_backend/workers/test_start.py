"""What a worker process does before it starts a unit: it reports, and imports all that units need."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vldd_dist.events import UnitReported, WorkerStarted
from vldd_dist.ray_backend.workers import start
from vldd_dist.ray_backend.workers.messages import decode

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


@pytest.mark.parametrize(
    ("begin", "imports"),
    [
        (lambda events: start.run(b"", "a", events), "vldd_dist.ray_backend.workers.start.import_worker"),
        (lambda events: start.RankActor().open(2, "a", events), "vldd_dist.sharding.rendezvous.open_rendezvous"),
    ],
    ids=["run", "open"],
)
def test_a_worker_reports_before_its_imports(
    begin: Callable[[Any], Any], imports: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hang, and only a unit that has started is stopped by the stall timeout."""
    sent: list[Any] = []
    queue = SimpleNamespace(actor=SimpleNamespace(put_nowait=SimpleNamespace(remote=sent.append)))
    monkeypatch.setattr(start.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n1"))

    def fail(*arguments: object) -> None:
        assert [decode(*message) for message in sent] == [UnitReported("a", WorkerStarted(), "n1")]
        raise ImportError("no driver")

    monkeypatch.setattr(imports, fail)
    answer = begin(queue)
    assert (answer["status"], answer["node"], "no driver" in answer["cause"]) == ("broken", "n1", True)
