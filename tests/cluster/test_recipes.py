"""The recipes in cluster/ for clouds, and the image: errors that Ray and the clouds would reject, and settings that must agree
with the package."""

import copy
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.model import ServiceModel  # type: ignore[import-untyped]
from botocore.validate import ParamValidator  # type: ignore[import-untyped]
from docker.utils.build import exclude_paths  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.kuberay import ANY, COUNT, FLAG, TEXT, closed, many, one_of
from tests.cluster.recipes import CLUSTER, DOCKERFILE, RECIPES, ROOT, load, options_of_start, pins, refusals
from vldd_dist.ray_backend.submitting.secret_files import SECRET_NAMES


def prepared(recipe: dict[str, Any]) -> dict[str, Any]:
    """The description as `ray up` completes it, before any request to the cloud."""
    config = prepare_config(recipe)
    validate_config(config)
    return config


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_accepts_the_description_and_finds_a_misspelt_key(cloud: str) -> None:
    recipe = load(f"{cloud}.yaml")
    config = prepared(recipe)
    # Ray's default commands would replace the image's Ray by another version.
    assert not config["setup_commands"] + config["head_setup_commands"] + config["worker_setup_commands"]
    for name, worker in config["available_node_types"].items():
        assert not worker.get("worker_setup_commands"), name
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        prepared({**recipe, "idle_timeout_minuts": 5})
    wrong = copy.deepcopy(recipe)
    wrong["available_node_types"]["gpu"]["max_worker"] = 5
    with pytest.raises(Exception, match="max_worker"):
        prepared(wrong)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_head_runs_no_unit_and_nodes_come_on_demand(cloud: str) -> None:
    config = prepared(load(f"{cloud}.yaml"))
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert (types["head"]["min_workers"], types["head"]["max_workers"]) == (0, 0)
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_recipes_require_the_token(cloud: str) -> None:
    recipe = load(f"{cloud}.yaml")
    assert "--env RAY_AUTH_MODE=token" in recipe["docker"]["run_options"]
    (home,) = re.findall(r"^ENV HOME=(\S+)", DOCKERFILE, re.MULTILINE)
    assert recipe["file_mounts"] == {f"{home}/.ray/auth_token": "~/.ray/auth_token"}
    head = [options_of_start(command) for command in recipe["head_start_ray_commands"] if command.startswith("ray start")]
    worker = [options_of_start(command) for command in recipe["worker_start_ray_commands"] if command.startswith("ray start")]
    assert [options["dashboard_host"] for options in head] == ["127.0.0.1"]
    assert head[0]["head"]
    assert head[0]["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert [options["address"] for options in worker] == [f"$RAY_HEAD_IP:{head[0]['port']}"]


def as_run_instances(node: dict[str, Any]) -> str:
    """EC2's validation errors for a node's configuration; empty if it is valid."""
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    given = {**node, "MinCount": 1, "MaxCount": 1}
    return ParamValidator().validate(given, model.operation_model("RunInstances").input_shape).generate_report()


def test_ec2_accepts_the_nodes_and_workers_are_spot_instances() -> None:
    types = load("aws.yaml")["available_node_types"]
    head, worker = types["head"]["node_config"], types["gpu"]["node_config"]
    assert as_run_instances(head) == as_run_instances(worker) == ""
    assert "MarketTyp" in as_run_instances({**worker, "InstanceMarketOptions": {"MarketTyp": "spot"}})
    assert worker["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in head
    assert [node["IamInstanceProfile"] for node in (head, worker)] == [{"Name": "vldd-head"}, {"Name": "vldd-worker"}]


GCE_INSTANCE = closed(
    ("machineType", "disks"),
    machineType=TEXT,
    disks=many(
        closed(
            boot=FLAG,
            autoDelete=FLAG,
            type=one_of("PERSISTENT", "SCRATCH"),
            initializeParams=closed(("sourceImage",), diskSizeGb=COUNT, sourceImage=TEXT, diskType=TEXT),
        ),
        1,
    ),
    metadata=closed(items=many(closed(("key", "value"), key=TEXT, value=TEXT))),
    scheduling=closed(
        provisioningModel=one_of("STANDARD", "SPOT"),
        instanceTerminationAction=one_of("STOP", "DELETE"),
        onHostMaintenance=one_of("MIGRATE", "TERMINATE"),
        automaticRestart=FLAG,
        preemptible=FLAG,
    ),
    serviceAccounts=many(closed(("email", "scopes"), email=TEXT, scopes=many(TEXT, 1))),
    guestAccelerators=many(ANY),
    networkInterfaces=many(ANY),
    labels=ANY,
)


def test_compute_engine_accepts_the_nodes_and_workers_are_spot_instances() -> None:
    types = load("gcp.yaml")["available_node_types"]
    head, worker = types["head"]["node_config"], types["gpu"]["node_config"]
    assert refusals(head, GCE_INSTANCE) == refusals(worker, GCE_INSTANCE) == []
    assert refusals({**worker, "machinetype": "a2"}, GCE_INSTANCE)
    assert "scheduling" not in head
    # A GPU node cannot migrate, and a spot node must not restart by itself, because Ray would not recognise it.
    assert worker["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }
    # The default, pd-standard, is a hard disk.
    assert all(disk["initializeParams"]["diskType"].endswith("/pd-ssd") for node in (head, worker) for disk in node["disks"])
    assert worker["serviceAccounts"][0]["email"].startswith("vldd-worker@")
    # A node type's own list replaces the common one.
    common, own = load("gcp.yaml")["initialization_commands"], types["gpu"]["initialization_commands"]
    assert own[: len(common)] == common


SECRETS = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{12,}"
    r"|-----BEGIN|\bAIza[\w-]{20,}|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|(access_?key|secret_?key|session_?token|password|auth_?token|api_?key|private_?key)\w*[\"']?\s*[=:]\s*[\"']?[\w/+]"
    r"|\b\d{12}\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_no_recipe_holds_a_secret(path: Path) -> None:
    assert not [line for line in path.read_text().splitlines() if SECRETS.search(line)]


@pytest.mark.parametrize(
    "line",
    [
        "AWS_ACCESS_KEY_ID: abc",
        'aws_secret_access_key="x"',
        "key: AKIAIOSFODNN7EXAMPLE",
        "arn:aws:iam::123456789012:role/x",
        "--env RAY_AUTH_TOKEN=abc",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_secret_would_be_found(line: str) -> None:
    assert SECRETS.search(line)


def instructions() -> list[list[str]]:
    """The instructions of the Dockerfile, each as a list of words. Continued lines are joined, and comments are left out."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    return [line.split() for line in lines.replace("\\\n", " ").splitlines() if line]


def test_the_base_image_is_named_by_its_digest() -> None:
    """A tag can be moved to another image."""
    bases = [words[0] for name, *words in instructions() if name == "FROM"]
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11[\w.-]*@sha256:[0-9a-f]{64}", bases[0])


def build_context(root: Path) -> set[str]:
    """The files of a folder that `docker build` sends, by the rules of .dockerignore, which is always sent itself."""
    ignored = (root / ".dockerignore").read_text().splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    return {path for path in exclude_paths(str(root), patterns) if (root / path).is_file()} - {".dockerignore"}


def test_the_build_gets_the_package_and_no_secrets(tmp_path: Path) -> None:
    secrets = [name.replace("*", "x") for name in SECRET_NAMES]
    wanted = ["vldd_dist/a.py", "jobs/presets/b.yaml", "pyproject.toml", "cluster/constraints-gcp.txt"]
    others = ["docs/a.md", "tests/a.py", "demo-store/units/x", "notes.txt", "vldd_dist/__pycache__/a.pyc", "cluster/aws.yaml"]
    deep = [f"{folder}/{name}" for folder in ("vldd_dist", "jobs/presets") for name in secrets]
    for name in (*secrets, *deep, *wanted, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    assert build_context(tmp_path) == set(wanted)


def test_the_image_copies_existing_files_and_installs_pinned_packages() -> None:
    context = build_context(ROOT)
    copied: set[str] = set()
    for name, *words in instructions():
        if name == "COPY":
            *sources, _ = words
            copied |= set(sources)
            # Not ".", which would copy everything in the working directory.
            assert all(any(path == source or path.startswith(f"{source}/") for path in context) for source in sources), sources
    code = {str(path.relative_to(ROOT)) for folder in ("vldd_dist", "jobs") for path in (ROOT / folder).rglob("*.*")}
    assert {path for path in code if path.endswith((".py", ".yaml", ".j2"))} <= context
    assert {"vldd_dist", "jobs"} <= copied
    (install,) = [words for words in instructions() if "--constraint" in words]
    constraints = {after for word, after in pairwise(install) if word == "--constraint"}
    assert constraints == {"constraints.txt", "cluster/constraints-gcp.txt"} <= copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = [re.findall(r"\w+", word) for word in install if word.startswith("'.[")]
    assert set(extras) <= project["optional-dependencies"].keys()
    # Without these two the package cannot be built.
    assert project["readme"] in copied
    assert set(project["license-files"]) <= copied
    pinned = pins(ROOT / "constraints.txt") | pins(CLUSTER / "constraints-gcp.txt")
    asked = [*project["dependencies"], *(need for extra in extras for need in project["optional-dependencies"][extra])]
    asked += ["boto3", "google-api-python-client"]
    assert {canonicalize_name(Requirement(need).name) for need in asked} <= pinned.keys()
    assert set(asked[-2:]) <= set(install)


def test_both_sets_of_pins_agree() -> None:
    main, more = pins(ROOT / "constraints.txt"), pins(CLUSTER / "constraints-gcp.txt")
    assert {name for name in main.keys() & more.keys() if main[name] != more[name]} == set()


def test_the_image_runs_as_an_unprivileged_user() -> None:
    assert [words for name, *words in instructions() if name == "USER"] == [["1000:1000"]]
    # The home directory of this user is the one in which `ray up` puts the token.
    assert re.search(r"^RUN useradd .*--uid 1000 ", DOCKERFILE, re.MULTILINE)
    assert [name for name, *_ in instructions()].index("USER") > max(
        place for place, (name, *_) in enumerate(instructions()) if name in ("RUN", "COPY")
    )


WITHOUT_COMPILER = """
from datetime import timedelta

import torch
from deepspeed.ops.op_builder.builder import OpBuilder

from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.rendezvous import join, open_rendezvous


def refuse(builder, *arguments, **options):
    raise SystemExit(f"{builder.NAME} would be built")


OpBuilder.load = OpBuilder.jit_load = refuse
meeting, server = open_rendezvous("127.0.0.1", 1)
ranks = join(meeting, 0, 1, device=torch.device("cpu"), timeout=timedelta(seconds=60))
for sharding in ("zero1", "zero2", "zero3"):
    model = torch.nn.Linear(8, 4)
    engine = shard_model(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), sharding, ranks)
    engine.step(engine(torch.ones(2, 8)).sum())
    engine.backward(engine(torch.ones(2, 8)).sum())
print("steps taken")
"""


def test_deepspeed_builds_nothing_at_first_use() -> None:
    """This is why the image needs neither a compiler nor prebuilt operators."""
    assert not {"DS_BUILD_OPS", "gcc", "build-essential"} & {word for line in instructions() for word in line}
    ended = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["steps taken"]), ended.stderr
