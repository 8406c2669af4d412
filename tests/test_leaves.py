"""Modules that all others may import: they load only the standard library."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["vldd_dist.events", "vldd_dist.method_names", "vldd_dist.recall_metrics"])
def test_a_leaf_loads_nothing_of_ours(name: str) -> None:
    # The package's `__init__` loads torch, so that the module is loaded by its path.
    path = f"{name.replace('.', '/')}.py"
    program = f"import importlib.util as u, sys; s = u.spec_from_file_location('leaf', '{path}'); m = u.module_from_spec(s); "
    program += "sys.modules['leaf'] = m; s.loader.exec_module(m); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert [module for module in loaded if module.partition(".")[0] in ("vldd_dist", "torch", "numpy", "ray", "pydantic")] == []
