"""The wheel, built from a copy of the repository, contains every file of the package and nothing else, and declares its
requirements. With it a new user comes from a CSV file to a published set and a notebook on it, outside of any clone."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import nbformat
import pytest
from datasets import load_dataset

from tests.data.sample_files import jpeg
from vldd_dist.testing.experiments.tiny import HANG_SECONDS

ROOT = Path(__file__).parents[1]
IMAGES = 40
# What `vldd init` chooses for so few images, shortened further.
SHORTER = [
    "experts.count=1",
    "experts.epochs=3",
    "distill.outer_steps=2",
    "distill.objective.inner_steps=2",
    "coresets.methods=[random]",
    "evaluation.seeds=[0]",
    "evaluation.epochs=2",
    "evaluation.learning_rates=[0.1]",
]


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


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel") / "sources"
    copy_repository(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """The wheel, beside the copy from which it is built."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(sources.parent)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sources)], check=True)
    (path,) = sources.parent.glob("*.whl")
    return path


def test_the_wheel_holds_the_whole_package(sources: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if not name.startswith("vldd_dist-")}
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(opened.read(name))
    made = {str(file.relative_to(sources)) for file in (sources / "vldd_dist").rglob("*") if file.is_file()}
    assert made == packed
    assert {
        "vldd_dist/py.typed",
        "vldd_dist/presets/scenes.yaml",
        "vldd_dist/distilled_set/publishing/card.md",
        "vldd_dist/reporting/tables/published/lors.yaml",
        "vldd_dist/reporting/pages/templates/table.html.j2",
    } <= packed
    assert f"'dist/{wheel.name}[" in (ROOT / "docs/index.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(metadata.get_all("Provides-Extra")) == project["optional-dependencies"].keys()
    assert metadata["License-Expression"] == "Apache-2.0"


class User:
    """Somebody who has installed the wheel in a new virtual environment, and works in a folder that is empty at first.

    The environment also sees the packages of this one, since tests have no network, but not the checkout.
    """

    def __init__(self, wheel: Path, place: Path) -> None:
        self.folder, self.programs = place / "work", place / "environment" / "bin"
        self.folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "environment")], check=True)
        options = ["--quiet", "--no-index", "--no-deps"]
        python = str(self.programs / "python")
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)], check=True)
        (packages,) = (place / "environment" / "lib").glob("python*/site-packages")
        # Lines of a .pth file are only paths: an editable installation in these folders takes no effect.
        (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment |= {"PATH": f"{self.programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def calls(self, program: str, *arguments: str, **variables: str) -> str:
        """The standard output of a program of the environment, which must succeed."""
        ended = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        assert ended.returncode == 0, f"{program} {' '.join(arguments)}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout


@pytest.mark.ray
def test_a_new_user_comes_from_a_csv_file_to_a_published_set(wheel: Path, tmp_path: Path) -> None:
    """The commands of docs/tutorials/own-data.md and docs/tutorials/use-a-set.md, each as it would be typed."""
    user = User(wheel, tmp_path)
    imported = user.calls("python", "-c", "import vldd_dist; print(vldd_dist.__file__)").strip()
    assert Path(imported).is_relative_to(tmp_path / "environment")
    lines = ["image,caption"]
    for number in range(IMAGES):
        (user.folder / f"{number}.jpg").write_bytes(jpeg((6 * number, 0, 255 - 6 * number)))
        lines += [f"{number}.jpg,photo {number} from the {side}" for side in ("left", "right")]
    (user.folder / "captions.csv").write_text("\n".join(lines) + "\n")

    said = user.calls("vldd", "init", "first", "--from", "captions.csv")
    assert "images in the column 'image', captions in 'caption'" in said
    changes = [part for change in SHORTER for part in ("--set", change)]
    ran = user.calls("vldd", "run", "first/experiment.yaml", "--store", "first/store", *changes)
    (report,) = (line for line in ran.splitlines() if line.startswith("report: "))
    assert report == f"report: {(user.folder / 'first/store/report/first/index.html').as_uri()}"
    (listed,) = user.calls("vldd", "list", "first/store").splitlines()
    url, pairs = listed.split("  ")[:2]
    assert f"set: {url}" in ran.splitlines()
    assert f"{pairs.split()[0]} synthetic image-text pairs" in user.calls("vldd", "show", url)
    assert "first" in user.calls("vldd", "report", "first/store")

    published = user.folder / "hub" / "me" / "first"
    assert user.calls("vldd", "push", url, str(published)).strip() == f"{pairs} at {published}, verified"
    assert user.calls("vldd", "verify", str(published)).startswith(f"{pairs}, ")
    rows = load_dataset(str(published), split="train", cache_dir=str(tmp_path / "cache"))
    assert f"{len(rows)} pairs" == pairs

    shutil.copy(ROOT / "examples/train-on-a-set.ipynb", user.folder)
    given = {"VLDD_SET": str(published), "VLDD_SOURCE": json.dumps({"name": "table", "path": "captions.csv"})}
    execute = "from nbclient.cli import main; main()"
    user.calls("python", "-c", execute, "--output", "done.ipynb", "train-on-a-set.ipynb", **given)
    done = nbformat.read(user.folder / "done.ipynb", as_version=4)
    texts = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert f"{pairs} for test_nfnet at 32 px, texts by minilm" in texts
    assert "random real pairs  " in texts
