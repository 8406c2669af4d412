"""The docstrings: the modules that they name exist."""

import re
from pathlib import Path

import pytest

from vldd_dist.config.experiment import Experiment

PACKAGE = Path(__file__).parents[1] / "vldd_dist"
FOLDERS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
NAME = re.compile(r"`([a-z]\w*(?:\.\w+)+)`")


def is_setting(name: str) -> bool:
    """Whether the first two parts of a dotted name are a section of a description and one of its keys."""
    section, key, *_ = name.split(".")
    field = Experiment.model_fields.get(section)
    return field is not None and key in getattr(field.annotation, "model_fields", {})


def is_in(folder: Path, name: str) -> bool:
    """Whether a dotted name is a module under the folder, a folder there, or a name that one of them contains."""
    first, *rest = name.split(".")
    if (folder / first).is_dir():
        return not rest or is_in(folder / first, ".".join(rest)) or is_named(folder / first / "__init__.py", rest[0])
    module = folder / f"{first}.py"
    return module.is_file() and (not rest or is_named(module, rest[0]))


def is_named(module: Path, name: str) -> bool:
    return re.search(rf"\b{name}\b", module.read_text()) is not None


def names() -> list[tuple[str, str]]:
    """(file, dotted name) of each name in backticks whose first part is a folder of the package, without names of files."""
    return [
        (str(path.relative_to(PACKAGE)), name)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in NAME.findall(path.read_text())
        if name.split(".")[0] in FOLDERS and not name.endswith(".json")
    ]


def test_the_modules_that_docstrings_name_exist() -> None:
    found = names()
    assert len(found) > 20
    wrong = [
        (file, name)
        for file, name in found
        if not (is_setting(name) or is_in(PACKAGE, name) or is_in((PACKAGE / file).parent, name))
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["artifacts.row_files", "store.no_module", "data.no_key", "artifacts.keys.NoSuchKey"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert not is_setting(name)
    assert not is_in(PACKAGE, name)
