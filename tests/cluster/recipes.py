"""Reading the recipes in cluster/."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from packaging.utils import canonicalize_name
from ray.scripts.scripts import cli as ray_cli

from tests.cluster.kuberay import Schema

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
RECIPES = sorted(path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".json", ".txt") or path.name == "Dockerfile")
RECIPES += [ROOT / "jobs/runtime_env.yaml"]


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def rendered(overlay: str) -> dict[str, Any]:
    """Kind -> document of cluster/kuberay/overlays/OVERLAY, as `kubectl apply -k` would send it; service accounts are left
    out."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(CLUSTER / "kuberay/overlays" / overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return {found["kind"]: found for found in yaml.safe_load_all(made.stdout) if found["kind"] != "ServiceAccount"}


def pins(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def options_of_start(command: str) -> dict[str, Any]:
    """The options of a `ray start` command. An option that `ray start` does not have is an error."""
    words = shlex.split(command)
    assert words[:2] == ["ray", "start"]
    return ray_cli.commands["start"].make_context("ray start", words[2:]).params


def refusals(given: Any, schema: Schema) -> list[str]:
    Draft202012Validator.check_schema(schema)
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(given)]
