"""The wheel, built from a copy of the sources, contains every file of the package and declares its requirements."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.tmp")


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    # The presets are a symbolic link, which is followed by the copy as by a build.
    shutil.copytree(ROOT / "vldd_dist", sources / "vldd_dist", ignore=NOT_SOURCES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        tmp_path,
        sources,
    ]
    subprocess.run([sys.executable, *build], check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("vldd_dist/")}
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(name))
    made = {str(file.relative_to(sources)) for file in (sources / "vldd_dist").rglob("*") if file.is_file()}
    assert made == packed
    assert {"vldd_dist/py.typed", "vldd_dist/presets/scenes.yaml", "vldd_dist/distilled_set/publishing/card.md"} <= packed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(metadata.get_all("Provides-Extra")) == project["optional-dependencies"].keys()
    assert metadata["License-Expression"] == "Apache-2.0"
