"""The table of extras agrees with pyproject.toml, and a command that lacks one names it in a sentence."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.data.sample_files import jpeg
from vldd_dist.extras import EXTRAS, extra_of

# Modules with other names than their packages (gcsfs and adlfs need not be installed), and modules of packages' requirements.
OTHER_NAMES = {"scikit_learn": "sklearn"}
INDIRECT = {"torchvision": "timm"}
PROGRAM = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from vldd_dist.cli.main import main
main(sys.argv[2:])
"""


def test_the_table_has_the_modules_of_pyproject() -> None:
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert EXTRAS.keys() == declared.keys() - {"docs", "dev"}
    for extra, modules in EXTRAS.items():
        packages = {re.split(r"[\[<>=]", package)[0].replace("-", "_") for package in declared[extra]}
        assert {OTHER_NAMES.get(name, name) for name in packages} == {*modules} - INDIRECT.keys()
    for module, package in INDIRECT.items():
        assert module in {re.split(r"\W", needed)[0] for needed in metadata.requires(package) or []}


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["submit", "scenes", "--store", "s3://bucket/store"], "ray"),
        (["init", "first", "--from", "captions.csv"], "torchvision"),
    ],
)
def test_a_command_without_its_extra_says_how_to_add_it(command: list[str], module: str, tmp_path: Path) -> None:
    """In a process that cannot import the module. Without the sentence a user sees a traceback."""
    (tmp_path / "1.jpg").write_bytes(jpeg())
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a photo\n")
    ended = subprocess.run([sys.executable, "-c", PROGRAM, module, *command], cwd=tmp_path, capture_output=True, text=True)
    sentence = f"vldd: the module {module} is not installed, which this command needs: pip install 'vldd_dist[distill]'\n"
    assert (ended.returncode, ended.stderr) == (1, sentence)


def test_another_missing_module_is_no_extra() -> None:
    assert extra_of("vldd_dist.nothing") is extra_of(None) is extra_of("ray.nothing") is None
