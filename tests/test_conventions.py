"""The files by which tools of others know this repository: they can be read, and agree with the Makefile and pyproject.toml."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
# The folder of an environment's programs, as the Makefile and the hooks of pre-commit name it.
PROGRAMS = re.compile(r"^(?:\$\(BIN\)|\.venv/bin)/")


def without_options(command: str) -> tuple[str, ...]:
    """A program and what it is to do, as in `ruff check`, without its folder, options and the folder that it is to read."""
    return tuple(word for word in PROGRAMS.sub("", command.strip()).split() if word != "." and not word.startswith("-"))


def test_a_commit_is_checked_by_the_commands_of_make_lint_and_make_type() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "the versions of the gate"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert [hook["id"] for hook in repository["hooks"] if hook["language"] != "system" or not hook["name"]] == []
    here = Path(sys.executable).parent
    assert [one for one in entries if not PROGRAMS.match(one) or shutil.which(without_options(one)[0], path=here) is None] == []
    recipes = re.findall(r"^(?:lint|type): setup\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert {without_options(entry) for entry in entries} == {
        without_options(line) for recipe in recipes for line in recipe.splitlines()
    }
    # Given the names of the changed files, mypy would check these alone.
    assert [hook["id"] for hook in repository["hooks"] if not hook.get("pass_filenames", True)] == ["mypy"]


def test_the_citation_has_what_version_1_2_of_the_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    for work in (citation, citation["preferred-citation"]):
        assert all(isinstance(work[key], str) and work[key] for key in ("title", "type"))
        assert work["authors"]
        for author in work["authors"]:
            # A group has one name, a person two.
            assert author.keys() in ({"name"}, {"family-names", "given-names"})
            assert all(isinstance(value, str) and value for value in author.values())
    texts = [citation["message"], *citation["keywords"]]
    assert [text for text in texts if not isinstance(text, str) or not text] == []
    assert isinstance(citation["preferred-citation"]["year"], int)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_workflow_calls_targets_of_the_makefile() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    called = set()
    for dependencies in yaml.safe_load(text)["jobs"]["tests"]["strategy"]["matrix"]["dependencies"]:
        jobs = yaml.safe_load(text.replace("${{ matrix.dependencies }}", dependencies))["jobs"].values()
        commands = [step["run"].split() for job in jobs for step in job["steps"] if "run" in step]
        called |= {word for first, *words in commands if first == "make" for word in words if "=" not in word}
    targets = re.findall(r"^([\w./-]+):", MAKEFILE, re.MULTILINE)
    assert "test" in called
    assert called - set(targets) == set()
