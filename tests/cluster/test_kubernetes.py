"""The recipes for Kubernetes: errors that the operator would reject, and settings that must agree with the package."""

import copy
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.cluster import kuberay
from tests.cluster.recipes import CLUSTER, DOCKERFILE, ROOT, load, options_of_start, pins, refusals, rendered
from vldd_dist.config.loading.load import load_experiment

CLUSTER_CR, JOB_CR = load("kuberay/base/raycluster.yaml"), load("kuberay/job/rayjob.yaml")
# The same change as in job/kustomization.yaml.
JOB_CR["spec"]["rayClusterSpec"] = CLUSTER_CR["spec"]
ACCOUNTS = list(yaml.safe_load_all((CLUSTER / "kuberay/base/service-accounts.yaml").read_text()))
OVERLAYS = sorted(path.parent.name for path in (CLUSTER / "kuberay/overlays").glob("*/kustomization.yaml"))


def groups() -> list[dict[str, Any]]:
    return [CLUSTER_CR["spec"]["headGroupSpec"], *CLUSTER_CR["spec"]["workerGroupSpecs"]]


def test_the_recipes_satisfy_the_kubernetes_schemas() -> None:
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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rendered_overlays_satisfy_the_kubernetes_schemas(overlay: str) -> None:
    ((kind, made),) = rendered(overlay).items()
    assert kind == ("RayJob" if overlay.startswith("job") else "RayCluster")
    assert refusals(made, kuberay.RAY_JOB if kind == "RayJob" else kuberay.RAY_CLUSTER) == []
    spec = made["spec"]["rayClusterSpec"] if kind == "RayJob" else made["spec"]
    (worker,) = spec["workerGroupSpecs"]
    spot = {"cloud.google.com/gke-spot": "true"} if "spot" in overlay else None
    assert worker["template"]["spec"].get("nodeSelector") == spot
    in_queue = "kueue" in overlay
    assert ("kueue.x-k8s.io/queue-name" in made["metadata"].get("labels", {})) == in_queue
    assert spec["enableInTreeAutoscaling"] is not in_queue
    assert (worker["minReplicas"] == worker["replicas"] == worker["maxReplicas"] > 0) == in_queue
    assert made["spec"].get("shutdownAfterJobFinishes", False) == (in_queue and kind == "RayJob")
    if kind == "RayJob":
        # A container beside the head does not wait for the workers of a queue.
        assert made["spec"]["submissionMode"] == ("K8sJobMode" if in_queue else "SidecarMode")
        assert made["spec"]["preRunningDeadlineSeconds"] > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_containers_are_those_of_a_restricted_namespace(overlay: str) -> None:
    """The fields that the Pod Security level `restricted` requires."""
    ((_, made),) = rendered(overlay).items()
    spec = made["spec"].get("rayClusterSpec", made["spec"])
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    contexts = [container["securityContext"] for pod in pods for container in pod["containers"]]
    for context in [*contexts, spec["autoscalerOptions"]["securityContext"]]:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if "kueue" in name])
def test_the_guide_names_what_a_queue_must_cover(overlay: str) -> None:
    """Kueue suspends a workload that requests a resource without a quota."""
    ((_, made),) = rendered(overlay).items()
    spec = made["spec"].get("rayClusterSpec", made["spec"])
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    requested = {name for pod in pods for container in pod["containers"] for name in container["resources"]["requests"]}
    assert {"cpu", "nvidia.com/gpu"} <= requested
    guide = (ROOT / "docs/cluster.md").read_text()
    (paragraph,) = re.findall(r"^\*\*A queue of Kueue\.\*\*.*?\n\n", guide, re.MULTILINE | re.DOTALL)
    comments = "".join(re.findall(r"^#.*", (CLUSTER / "kuberay/kueue/kustomization.yaml").read_text(), re.MULTILINE))
    for name in requested:
        assert f"`{name}`" in paragraph
        assert name in comments


def test_the_guide_renames_a_second_job_and_not_its_accounts() -> None:
    rendered("job-spot")
    guide = (ROOT / "docs/cluster.md").read_text()
    (command,) = re.findall(r"^(kubectl kustomize .* \| sed .*) \| kubectl apply -f -$", guide, re.MULTILINE)
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    *accounts, job = yaml.safe_load_all(made.stdout)
    assert (job["kind"], job["metadata"]["name"]) == ("RayJob", "vldd-NAME")
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    used = {pod["serviceAccountName"] for pod in pods}
    assert used == {account["metadata"]["name"] for account in accounts} == {"vldd-head", "vldd-worker"}


@pytest.mark.parametrize("nodes", ["", "-spot"])
def test_the_cluster_of_the_job_equals_the_standing_cluster(nodes: str) -> None:
    standing, job = rendered(f"cluster{nodes}")["RayCluster"], rendered(f"job{nodes}")["RayJob"]
    assert job["spec"]["rayClusterSpec"] == standing["spec"]


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
def test_the_resources_of_a_preset_fit_a_worker(preset: Path) -> None:
    limits = CLUSTER_CR["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    for stage in yaml.safe_load(preset.read_text()).values():
        asked = stage.get("resources", {}) if isinstance(stage, dict) else {}
        assert asked.get("cpus", 0) <= int(limits["cpu"])
        assert asked.get("gpus", 0) <= int(limits["nvidia.com/gpu"])


def test_pod_settings_are_consistent_with_each_other_and_with_the_image() -> None:
    (uid, gid) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    accounts = {account["metadata"]["name"] for account in ACCOUNTS}
    for group in groups():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] in accounts
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert [pod["securityContext"][key] for key in ("runAsUser", "runAsGroup")] == [int(uid), int(gid)]
        (container,) = pod["containers"]
        # Requests equal limits, so that no pod is killed for memory above its request; for GPUs Kubernetes requires it.
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]


def test_pods_act_as_the_accounts_that_the_guide_makes() -> None:
    guide = (ROOT / "docs/cluster.md").read_text()
    bound = re.findall(
        r"add-iam-policy-binding (\S+)@\S+ \\\n  --role roles/iam.workloadIdentityUser --member \"\S+\[default/(\S+)\]\"", guide
    )
    named = {
        account["metadata"]["name"]: account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        for account in ACCOUNTS
    }
    assert {pod: f"{account}@YOUR_PROJECT.iam.gserviceaccount.com" for account, pod in bound} == named
    assert len(bound) == 2


def test_no_pod_is_moved_and_a_worker_has_a_disk_for_its_volume() -> None:
    for group in groups():
        assert group["template"]["metadata"]["annotations"] == {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }
    worker = groups()[1]["template"]["spec"]
    (scratch,) = [volume["emptyDir"]["sizeLimit"] for volume in worker["volumes"] if volume["name"] == "scratch"]
    disk = worker["containers"][0]["resources"]["limits"]["ephemeral-storage"]
    assert int(disk.removesuffix("Gi")) >= int(scratch.removesuffix("Gi")) + 10


def test_pods_of_workers_go_to_spot_nodes_and_the_heads_does_not() -> None:
    spec = rendered("cluster-spot")["RayCluster"]["spec"]
    head, worker = (group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]))
    assert {toleration["key"] for toleration in worker["tolerations"]} >= {"cloud.google.com/gke-spot", "nvidia.com/gpu"}
    # The head has neither the labels of spot nodes of GKE, EKS and Karpenter, nor tolerations for their taints.
    (term,) = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {(rule["key"], rule["operator"], *rule.get("values", ())) for rule in term["matchExpressions"]} == {
        ("cloud.google.com/gke-spot", "DoesNotExist"),
        ("eks.amazonaws.com/capacityType", "NotIn", "SPOT"),
        ("karpenter.sh/capacity-type", "NotIn", "spot"),
    }
    assert "tolerations" not in head
    stop = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert int(stop.rpartition(" ")[2]) < worker["terminationGracePeriodSeconds"]


def test_the_command_of_the_job_is_in_the_image() -> None:
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    words = shlex.split(JOB_CR["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.run"]
    assert find_spec(words[2])
    preset = Path(words[3]).relative_to(folder)
    assert load_experiment(str(ROOT / preset)).name == preset.stem
    assert words[4:] == ["--store", f"s3://YOUR_BUCKET/{preset.stem}", "--wait-hours", "24"]
    assert JOB_CR["spec"]["backoffLimit"] > 0
    assert {JOB_CR["spec"].get(key, 0) for key in ("entrypointNumCpus", "entrypointNumGpus")} == {0}


def test_jobs_get_one_environment() -> None:
    given = yaml.safe_load((ROOT / "jobs/runtime_env.yaml").read_text())
    assert yaml.safe_load(JOB_CR["spec"]["runtimeEnvYAML"]) == given
    assert given.keys() == {"env_vars"}, "packages would be installed again on each node"
    assert all(isinstance(value, str) for value in given["env_vars"].values())
