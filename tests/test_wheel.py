"""The wheel, built from a copy of the repository, contains every file of the package and nothing else, and declares its
requirements."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_repository(target: Path) -> None:
    """Copy the files that git has or would add, as they are in the working tree. Symbolic links are followed, as by a build."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, copy)


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    copy_repository(sources)
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
        packed = {name for name in wheel.namelist() if not name.startswith("vldd_dist-")}
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(name))
    made = {str(file.relative_to(sources)) for file in (sources / "vldd_dist").rglob("*") if file.is_file()}
    assert made == packed
    assert {
        "vldd_dist/py.typed",
        "vldd_dist/presets/scenes.yaml",
        "vldd_dist/distilled_set/publishing/card.md",
        "vldd_dist/reporting/published/lors.yaml",
        "vldd_dist/reporting/templates/table.html.j2",
    } <= packed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(metadata.get_all("Provides-Extra")) == project["optional-dependencies"].keys()
    assert metadata["License-Expression"] == "Apache-2.0"
