"""docs/cluster.md and submissions: the commands in the guide are valid, and which files a submission sends."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import yaml
from ray._private.runtime_env.packaging import create_package
from ray.scripts.scripts import cli as ray_cli
from typer.main import get_command

from tests.cluster.recipes import RECIPES, ROOT
from vldd_dist.cli.main import app
from vldd_dist.ray_backend.submitting.secret_files import SECRET_NAMES


def test_a_submission_sends_the_package_and_little_else(tmp_path: Path) -> None:
    """Packed by Ray's own code for working directories."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    with ZipFile(package) as archive:
        names = set(archive.namelist())
    assert {"jobs/run.py", "jobs/presets/scenes.yaml", "jobs/runtime_env.yaml", "pyproject.toml"} <= names
    # All files of the package except caches and other leftovers.
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "vldd_dist").rglob("*") if path.suffix in (".py", ".j2", ".yaml")
    }
    assert sources <= names
    assert {name.partition("/")[0] for name in names} & {
        ".git",
        ".venv",
        ".ci",
        ".cache",
        "tests",
        "benchmarks",
        "cluster",
        "docs",
        "docs_site",
        "examples",
        "storage_schemas",
        "demo-store",
    } == set()
    assert not [name for name in names if "__pycache__" in name]
    assert package.stat().st_size < 1.15 * sum((ROOT / source).stat().st_size for source in sources)


def test_a_submission_by_hand_excludes_secrets_too() -> None:
    assert set(SECRET_NAMES) <= set((ROOT / ".rayignore").read_text().splitlines())


GUIDE = (ROOT / "docs/cluster.md").read_text()
TUTORIAL = (ROOT / "docs/tutorials/cluster.md").read_text()


def commands_in(text: str) -> list[list[str]]:
    """The words of each command in the fenced blocks, without comments and without a redirection of its output."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.partition(" > ")[0] for line in lines if line.startswith(("vldd ", "ray ", "python -m "))]
    return [shlex.split(command, comments=True) for command in commands]


def test_the_guides_commands_are_valid() -> None:
    tools: dict[str, Any] = {"vldd": get_command(app), "ray": ray_cli}
    typed = commands_in(GUIDE + TUTORIAL)
    assert {"vldd", "ray", "python"} == {words[0] for words in typed}
    for tool, name, *words in typed:
        if tool == "python":
            assert find_spec(words[0])
            continue
        command, name = tools[tool].commands[name], f"{tool} {name}"
        if hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(name, words)


def test_a_bucket_of_the_guide_does_not_keep_replaced_objects() -> None:
    (command,) = re.findall(r"^gcloud storage buckets create .*", GUIDE, re.MULTILINE)
    assert "--soft-delete-duration=0" in command.split()


def test_google_accepts_the_names_of_the_service_accounts() -> None:
    """An account's id has 6 to 30 characters (IAM's reference of projects.serviceAccounts.create)."""
    names = set(re.findall(r"service-accounts create ([\w-]+)", GUIDE))
    for loop in re.findall(r"for NAME in (.*?); do\n  gcloud iam service-accounts create \$NAME$", GUIDE, re.MULTILINE):
        names |= set(loop.split())
    recipe = (ROOT / "cluster/kuberay/base/service-accounts.yaml").read_text()
    names |= set(re.findall(r"(?<![$\w-])([\w-]+)@\S+\.iam\.gserviceaccount", GUIDE + recipe))
    assert {"vldd-head", "vldd-worker"} <= names
    assert [name for name in names if not 6 <= len(name) <= 30] == []


def test_the_pod_monitor_has_the_label_by_which_prometheus_selects_it() -> None:
    (block,) = re.findall(r"^```\n(apiVersion: monitoring.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    monitor = yaml.safe_load(block)
    assert (monitor["kind"], monitor["metadata"]["labels"]) == ("PodMonitor", {"release": "YOUR_RELEASE"})


def test_the_guide_names_existing_files_and_placeholders() -> None:
    named = re.findall(r"(?<![\w/.$~])(?:cluster|jobs|tests|docs)/[\w./-]*\w", GUIDE)
    assert {"cluster/Dockerfile", "cluster/aws.yaml", "cluster/kuberay/base/raycluster.yaml"} <= set(named)
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert all(find_spec(module) for module in re.findall(r"`(jobs\.\w+)`", GUIDE))
    for recipe in RECIPES:
        # The guide mentions each placeholder that the reader has to replace.
        for placeholder in set(re.findall(r"\bYOUR_\w+", recipe.read_text())):
            assert placeholder in GUIDE or recipe.name == "service-accounts.yaml", (recipe, placeholder)
