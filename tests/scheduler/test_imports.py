"""The modules that the scheduler must not import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib, sys
from pathlib import Path
for path in sorted(Path("vldd_dist/scheduler").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
print(*sorted(sys.modules))
"""


def test_the_scheduler_loads_no_ray_no_views_and_nothing_of_the_backend() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = ended.stdout.split()
    assert "vldd_dist.scheduler.controller" in loaded
    assert "ray" not in loaded
    above = ("vldd_dist.ray_backend", "vldd_dist.monitoring", "vldd_dist.reporting", "vldd_dist.planner", "vldd_dist.cli")
    assert [name for name in loaded if name.startswith(above)] == []
