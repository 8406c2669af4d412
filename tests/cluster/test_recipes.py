"""The recipes in cluster/: what Ray, the clouds and Kubernetes would refuse, and what must agree with the package."""

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from itertools import count, pairwise
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import pytest
import yaml
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.model import ServiceModel  # type: ignore[import-untyped]
from botocore.validate import ParamValidator  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli
from typer.main import get_command

from tests.cluster import kuberay
from tests.cluster.kuberay import ANY, COUNT, FLAG, TEXT, Schema, closed, many, one_of
from vldd_dist.cli import app
from vldd_dist.experiment import load_experiment
from vldd_dist.orchestration import ray_metrics
from vldd_dist.orchestration.progress import ProgressBoard
from vldd_dist.orchestration.ray_metrics import RayMetrics
from vldd_dist.orchestration.units import WorkUnit

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
RECIPES = sorted(path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".json", ".txt") or path.name == "Dockerfile")
RECIPES += [ROOT / "jobs/runtime_env.yaml"]


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def pins(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def options_of_start(command: str) -> dict[str, Any]:
    """The options of a `ray start`; what it does not know is an error."""
    words = shlex.split(command)
    assert words[:2] == ["ray", "start"]
    return ray_cli.commands["start"].make_context("ray start", words[2:]).params


# `ray up`


def prepared(recipe: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` makes it, before it asks the cloud."""
    config = prepare_config(recipe)
    validate_config(config)
    return config


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_takes_the_description_and_finds_a_misspelt_key(cloud: str) -> None:
    recipe = load(f"{cloud}.yaml")
    config = prepared(recipe)
    # Ray's defaults would install another Ray over the image's.
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
def test_nobody_without_the_token_gets_in(cloud: str) -> None:
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
    """What EC2 says of a node's description; empty when it takes it."""
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    given = {**node, "MinCount": 1, "MaxCount": 1}
    return ParamValidator().validate(given, model.operation_model("RunInstances").input_shape).generate_report()


def test_ec2_takes_the_nodes_and_workers_are_spot() -> None:
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


def refusals(given: Any, schema: Schema) -> list[str]:
    Draft202012Validator.check_schema(schema)
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(given)]


def test_compute_engine_takes_the_nodes_and_workers_are_spot() -> None:
    types = load("gcp.yaml")["available_node_types"]
    head, worker = types["head"]["node_config"], types["gpu"]["node_config"]
    assert refusals(head, GCE_INSTANCE) == refusals(worker, GCE_INSTANCE) == []
    assert refusals({**worker, "machinetype": "a2"}, GCE_INSTANCE)
    assert "scheduling" not in head
    # A GPU node cannot migrate, and a spot node must not come back by itself: Ray would not know it.
    assert worker["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }
    assert worker["serviceAccounts"][0]["email"].startswith("vldd-worker@")
    # A list of a node type's own takes the place of the common one.
    common, own = load("gcp.yaml")["initialization_commands"], types["gpu"]["initialization_commands"]
    assert own[: len(common)] == common


# Kubernetes

CLUSTER_CR, JOB_CR = load("kuberay/raycluster.yaml"), load("kuberay/rayjob.yaml")
ACCOUNTS = list(yaml.safe_load_all((CLUSTER / "kuberay/service-accounts.yaml").read_text()))


def groups() -> list[dict[str, Any]]:
    return [CLUSTER_CR["spec"]["headGroupSpec"], *CLUSTER_CR["spec"]["workerGroupSpecs"]]


def test_kubernetes_takes_the_recipes() -> None:
    assert refusals(CLUSTER_CR, kuberay.RAY_CLUSTER) == []
    assert refusals(JOB_CR, kuberay.RAY_JOB) == []
    for account in ACCOUNTS:
        assert refusals(account, kuberay.SERVICE_ACCOUNT) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayVersoin", "2.60.0"),
        ("spec.rayVersion", 2.6),
        ("spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.workerGroupSpecs.0.maxReplica", 8),
        ("spec.workerGroupSpecs.0.template.spec.nodeselector", {}),
        ("spec.workerGroupSpecs.0.template.spec.containers.0.resources.limit", {}),
        ("spec.workerGroupSpecs.0.template.spec.containers.0.resources.limits.memory", "48GB"),
        ("spec.workerGroupSpecs.0.template.spec.tolerations.0.effect", "NoScedule"),
    ],
)
def test_a_misspelt_key_or_value_of_a_cluster_is_found(path: str, value: Any) -> None:
    assert refusals(changed(CLUSTER_CR, path, value), kuberay.RAY_CLUSTER)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.submissionMode", "Sidecar"),
        ("spec.entryPoint", "python"),
        ("spec.rayClusterSpec.rayVersoin", "2.60.0"),
        ("spec.deletionStrategy.deletionRules.0.condition.jobDeploymentStatus", "Failed"),
        ("spec.deletionStrategy.deletionRules.0.condition.jobStatus", "SUCCEDED"),
        ("spec.shutdownAfterJobFinishes", True),
    ],
)
def test_a_misspelt_key_or_value_of_a_job_is_found(path: str, value: Any) -> None:
    assert refusals(changed(JOB_CR, path, value), kuberay.RAY_JOB)


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at `a.0.b`."""
    result = copy.deepcopy(document)
    *steps, last = path.split(".")
    place: Any = result
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return result


def test_the_jobs_cluster_is_the_standing_one() -> None:
    assert JOB_CR["spec"]["rayClusterSpec"] == CLUSTER_CR["spec"]


def test_ray_is_the_pinned_one_and_takes_the_start_parameters() -> None:
    assert CLUSTER_CR["spec"]["rayVersion"] == pins(ROOT / "constraints.txt")["ray"]
    for group in groups():
        options_of_start(shlex.join(["ray", "start", *(f"--{key}={value}" for key, value in group["rayStartParams"].items())]))
    assert CLUSTER_CR["spec"]["authOptions"] == {"mode": "token"}


def test_rays_autoscaler_sees_a_head_without_work_and_gpu_workers() -> None:
    document = copy.deepcopy(CLUSTER_CR)
    document["metadata"]["namespace"] = "default"
    types = _derive_autoscaling_config_from_ray_cr(document)["available_node_types"]
    head, worker = types["headgroup"], types["gpu"]
    assert (head["resources"]["CPU"], head["resources"].get("GPU", 0), head["max_workers"]) == (0, 0, 0)
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == (8, 1)
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)


@pytest.mark.parametrize("preset", sorted((ROOT / "jobs/presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_preset_asks_for_fits_a_worker(preset: Path) -> None:
    limits = CLUSTER_CR["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    for stage in yaml.safe_load(preset.read_text()).values():
        asked = stage.get("resources", {}) if isinstance(stage, dict) else {}
        assert asked.get("cpus", 0) <= int(limits["cpu"])
        assert asked.get("gpus", 0) <= int(limits["nvidia.com/gpu"])


def test_pods_agree_with_themselves_and_with_the_image() -> None:
    (uid, gid) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    accounts = {account["metadata"]["name"] for account in ACCOUNTS}
    for group in groups():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] in accounts
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert [pod["securityContext"][key] for key in ("runAsUser", "runAsGroup")] == [int(uid), int(gid)]
        (container,) = pod["containers"]
        # Equal, so that no pod is ended for memory that it was not promised; of GPUs Kubernetes asks it.
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]


def test_pods_of_workers_go_to_spot_nodes_and_the_heads_does_not() -> None:
    head, worker = (group["template"]["spec"] for group in groups())
    assert worker["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert {toleration["key"] for toleration in worker["tolerations"]} >= {"cloud.google.com/gke-spot", "nvidia.com/gpu"}
    assert not head["nodeSelector"]
    assert "tolerations" not in head
    stop = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert int(stop.rpartition(" ")[2]) < worker["terminationGracePeriodSeconds"]


def test_what_the_job_runs_is_in_the_image() -> None:
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    words = shlex.split(JOB_CR["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.run"]
    assert find_spec(words[2])
    preset = Path(words[3]).relative_to(folder)
    assert load_experiment(str(ROOT / preset)).name == preset.stem
    assert words[4:] == ["--store", f"s3://YOUR_BUCKET/{preset.stem}"]
    assert JOB_CR["spec"]["backoffLimit"] > 0
    assert {JOB_CR["spec"].get(key, 0) for key in ("entrypointNumCpus", "entrypointNumGpus")} == {0}


def test_jobs_get_one_environment() -> None:
    given = yaml.safe_load((ROOT / "jobs/runtime_env.yaml").read_text())
    assert yaml.safe_load(JOB_CR["spec"]["runtimeEnvYAML"]) == given
    assert given.keys() == {"env_vars"}, "packages would be installed anew on each node"
    assert all(isinstance(value, str) for value in given["env_vars"].values())


# What must be in none

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


# The image


def instructions() -> list[list[str]]:
    """Of the Dockerfile, one list of words each; continued lines joined, comments left out."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    return [line.split() for line in lines.replace("\\\n", " ").splitlines() if line]


def test_the_image_copies_what_there_is_and_installs_what_is_pinned() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")}
    copied: set[str] = set()
    for name, *words in instructions():
        if name == "COPY":
            *sources, _ = words
            copied |= set(sources)
            assert all((ROOT / source).exists() and source not in ignored for source in sources), sources
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
    asked += ["boto3", "gcsfs", "google-api-python-client"]
    assert {canonicalize_name(Requirement(need).name) for need in asked} <= pinned.keys()
    assert set(asked[-3:]) <= set(install)


def test_both_sets_of_pins_agree() -> None:
    main, more = pins(ROOT / "constraints.txt"), pins(CLUSTER / "constraints-gcp.txt")
    assert {name for name in main.keys() & more.keys() if main[name] != more[name]} == set()


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert [words for name, *words in instructions() if name == "USER"] == [["1000:1000"]]
    # Whose home is the one where `ray up` puts the token.
    assert re.search(r"^RUN useradd .*--uid 1000 ", DOCKERFILE, re.MULTILINE)
    assert [name for name, *_ in instructions()].index("USER") > max(
        place for place, (name, *_) in enumerate(instructions()) if name in ("RUN", "COPY")
    )


WITHOUT_COMPILER = """
from datetime import timedelta

import torch
from deepspeed.ops.op_builder.builder import OpBuilder

from vldd_dist.sharding.engine import shard_model
from vldd_dist.sharding.ranks import join, open_rendezvous


def refuse(builder, *arguments, **options):
    raise SystemExit(f"{builder.NAME} would be built")


OpBuilder.load = OpBuilder.jit_load = refuse
meeting, server = open_rendezvous("127.0.0.1", 1)
ranks = join(meeting, 0, 1, device=torch.device("cpu"), timeout=timedelta(seconds=60))
for stage in (1, 2, 3):
    model = torch.nn.Linear(8, 4)
    sharded = shard_model(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), stage, ranks)
    sharded.step(sharded(torch.ones(2, 8)).sum())
    sharded.backward(sharded(torch.ones(2, 8)).sum())
print("steps taken")
"""


def test_deepspeed_builds_nothing_at_first_use() -> None:
    """Which is why the image brings neither a compiler nor prebuilt operators."""
    assert not {"DS_BUILD_OPS", "gcc", "build-essential"} & {word for line in instructions() for word in line}
    ended = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["steps taken"]), ended.stderr


# What a submission sends


def test_a_submission_sends_the_package_and_little_else(tmp_path: Path) -> None:
    """By Ray's own packing of a working directory."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    with ZipFile(package) as archive:
        names = set(archive.namelist())
    assert {"jobs/run.py", "jobs/presets/scenes.yaml", "jobs/runtime_env.yaml", "pyproject.toml"} <= names
    # Everything of the package that is not plainly somebody's leftover.
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
        "docs",
        "demo-store",
    } == set()
    assert not [name for name in names if name.startswith("benchmarks/results/") or "__pycache__" in name]
    assert package.stat().st_size < 2 * 2**20


# The instructions

GUIDE = (ROOT / "docs/cluster.md").read_text()


def commands_in(text: str) -> list[list[str]]:
    """The words of each command in the indented or fenced blocks, comments left out."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("vldd ", "ray ", "python -m "))]


def test_the_guides_commands_can_be_typed() -> None:
    tools: dict[str, Any] = {"vldd": get_command(app), "ray": ray_cli}
    typed = commands_in(GUIDE)
    assert {"vldd", "ray", "python"} == {words[0] for words in typed}
    for tool, name, *words in typed:
        if tool == "python":
            assert find_spec(words[0])
            continue
        command, name = tools[tool].commands[name], f"{tool} {name}"
        if hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(name, words)


def test_the_guide_names_what_there_is() -> None:
    named = re.findall(r"(?<![\w/.$~])(?:cluster|jobs|tests|docs)/[\w./-]*\w", GUIDE)
    assert {"cluster/Dockerfile", "cluster/aws.yaml", "cluster/kuberay/rayjob.yaml"} <= set(named)
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert all(find_spec(module) for module in re.findall(r"`(jobs\.\w+)`", GUIDE))
    for recipe in RECIPES:
        # Who replaces a name is told so.
        for placeholder in set(re.findall(r"\bYOUR_\w+", recipe.read_text())):
            assert placeholder in GUIDE or recipe.name == "service-accounts.yaml", (recipe, placeholder)


# The dashboard

DASHBOARD = json.loads((CLUSTER / "grafana/vldd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
QUERIES = [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]
# Ray's own, on every metric.
COMMON = {"SessionName", "instance"}


class Registered:
    """In place of Ray's classes: which metrics there are, with which labels they are set."""

    labels: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] = ()) -> None:
        self.name = name
        self.labels[name] = set(tag_keys)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == self.labels[self.name]

    def inc(self, value: float) -> None:
        assert value > 0
        assert not self.labels[self.name]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The labels of each metric, by the name under which Prometheus knows it."""
    monkeypatch.setattr(Registered, "labels", {})
    monkeypatch.setattr(ray_metrics, "Gauge", Registered)
    monkeypatch.setattr(ray_metrics, "Counter", Registered)
    clock = count(0, 2 * ray_metrics.METRICS_SECONDS)
    board = ProgressBoard(RayMetrics(lambda: float(next(clock))))
    unit = WorkUnit("expert", {"index": 0}, label="expert 0")
    board.begin([unit], set())
    board.started(unit)
    board.event(unit.id, dict.fromkeys(ray_metrics.OF_A_UNIT, 1.0))
    board.refresh()
    board.retried(unit, "its machine ended")
    board.refresh()
    return {f"ray_{name}": labels for name, labels in Registered.labels.items()}


def metrics_in(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression with the labels that select among them."""
    found = re.findall(r"\b(ray_\w+)(?:\{([^}]*)\})?", expression)
    return {name: set(re.findall(r"(\w+)=", selectors)) for name, selectors in found}


def test_what_is_drawn_is_what_a_run_registers(registered: dict[str, set[str]]) -> None:
    drawn: set[str] = set()
    for expression in EXPRESSIONS + QUERIES:
        for name, selected in metrics_in(expression).items():
            if "vldd" in name:
                drawn.add(name)
                assert selected - COMMON <= registered[name], expression
                (grouped,) = re.findall(r"\bby \((.*?)\)", expression) or [""]
                assert set(re.findall(r"\w+", grouped)) - COMMON <= registered[name], expression
    assert drawn == registered.keys()


def test_other_metrics_are_rays_own() -> None:
    import ray

    folder = Path(ray.__file__).parent / "dashboard/modules"
    known = "\n".join(path.read_text() for path in [*folder.glob("metrics/dashboards/*.py"), *folder.glob("reporter/*.py")])
    for expression in EXPRESSIONS + QUERIES:
        for name in metrics_in(expression):
            assert "vldd" in name or re.search(rf'\b{name}\b|"{name.removeprefix("ray_")}"', known), name


def test_every_panel_is_drawn_from_the_chosen_source_and_session() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert 'SessionName=~"$SessionName"' in target["expr"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= VARIABLES.keys()
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            (grouped,) = set(re.findall(r"\bby \((.*?)\)", target["expr"])) or {""}
            assert legend <= set(re.findall(r"\w+", grouped)), panel["title"]


def test_panels_do_not_lie_on_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
