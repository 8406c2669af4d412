"""JSON schemas of the fields of RayCluster and RayJob (KubeRay 1.6) that the recipes use; unknown fields are errors.

Pods have the fields that a recipe may need. A field that is missing below is either misspelt in the recipe, or has to be added
here.
"""

from typing import Any

Schema = dict[str, Any]


def closed(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """An object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def many(of: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": of, "minItems": least}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY: Schema = {"type": "object"}
# Keys and values are strings: a number without quotes is rejected.
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
RESOURCES = closed(
    requests={"type": "object", "additionalProperties": QUANTITY}, limits={"type": "object", "additionalProperties": QUANTITY}
)
METADATA = closed(name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)

HANDLER = closed(exec=closed(("command",), command=many(TEXT, 1)), httpGet=ANY, tcpSocket=ANY, sleep=ANY)
CONTAINER = closed(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    command=many(TEXT),
    args=many(TEXT),
    workingDir=TEXT,
    # Kubernetes allows a port's name 15 characters.
    ports=many(
        closed(("containerPort",), containerPort=COUNT, name={"type": "string", "maxLength": 15}, protocol=one_of("TCP", "UDP"))
    ),
    env=many(closed(("name",), name=TEXT, value=TEXT, valueFrom=ANY)),
    envFrom=many(ANY),
    resources=RESOURCES,
    volumeMounts=many(closed(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)),
    lifecycle=closed(preStop=HANDLER, postStart=HANDLER),
    livenessProbe=ANY,
    readinessProbe=ANY,
    startupProbe=ANY,
    securityContext=ANY,
)
VOLUME = closed(
    ("name",),
    name=TEXT,
    emptyDir=closed(medium=one_of("", "Memory"), sizeLimit=QUANTITY),
    hostPath=ANY,
    secret=ANY,
    configMap=ANY,
    persistentVolumeClaim=ANY,
    ephemeral=ANY,
)
POD = closed(
    ("containers",),
    restartPolicy=one_of("Always", "OnFailure", "Never"),
    serviceAccountName=TEXT,
    automountServiceAccountToken=FLAG,
    securityContext=closed(runAsNonRoot=FLAG, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, seccompProfile=ANY),
    nodeSelector=LABELS,
    affinity=ANY,
    tolerations=many(
        closed(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            value=TEXT,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            tolerationSeconds=COUNT,
        )
    ),
    topologySpreadConstraints=many(ANY),
    priorityClassName=TEXT,
    runtimeClassName=TEXT,
    schedulerName=TEXT,
    hostNetwork=FLAG,
    dnsPolicy=TEXT,
    imagePullSecrets=many(closed(("name",), name=TEXT)),
    terminationGracePeriodSeconds=COUNT,
    initContainers=many(CONTAINER),
    containers=many(CONTAINER, 1),
    volumes=many(VOLUME),
)
TEMPLATE = closed(("spec",), metadata=METADATA, spec=POD)

CLUSTER_SPEC = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=TEXT,
    authOptions=closed(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version=one_of("v1", "v2"),
        idleTimeoutSeconds=COUNT,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        resources=RESOURCES,
        image=TEXT,
        imagePullPolicy=TEXT,
        securityContext=ANY,
        env=many(ANY),
        envFrom=many(ANY),
        volumeMounts=many(ANY),
    ),
    gcsFaultToleranceOptions=ANY,
    headServiceAnnotations=LABELS,
    upgradeStrategy=closed(type=one_of("Recreate", "None")),
    headGroupSpec=closed(
        ("template",),
        rayStartParams=LABELS,
        resources=LABELS,
        labels=LABELS,
        template=TEMPLATE,
        enableIngress=FLAG,
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
        headService=ANY,
    ),
    workerGroupSpecs=many(
        closed(
            ("groupName", "template", "minReplicas", "maxReplicas"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            suspend=FLAG,
            scaleStrategy=closed(workersToDelete=many(TEXT)),
            rayStartParams=LABELS,
            resources=LABELS,
            labels=LABELS,
            template=TEMPLATE,
        )
    ),
)

CONDITION = closed(jobStatus=one_of("SUCCEEDED", "FAILED"), jobDeploymentStatus=one_of("Failed"), ttlSeconds=COUNT)
# Exactly one of the two.
CONDITION["oneOf"] = [{"required": ["jobStatus"]}, {"required": ["jobDeploymentStatus"]}]
JOB_SPEC = closed(
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=LABELS,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    clusterSelector=LABELS,
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=TEMPLATE,
    submitterConfig=closed(backoffLimit=COUNT),
    suspend=FLAG,
    managedBy=TEXT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    deletionStrategy=closed(
        ("deletionRules",),
        deletionRules=many(
            closed(
                ("policy", "condition"),
                policy=one_of("DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"),
                condition=CONDITION,
            ),
            1,
        ),
    ),
)
# The operator rejects deletion rules together with the older setting for ending a cluster.
OLDER = [{"required": ["shutdownAfterJobFinishes"]}, {"required": ["ttlSecondsAfterFinished"]}]
JOB_SPEC["dependentSchemas"] = {"deletionStrategy": {"not": {"anyOf": OLDER}}}


def document(api: str, kind: str, **fields: Schema) -> Schema:
    required = ("apiVersion", "kind", "metadata")
    return closed(required, apiVersion=one_of(api), kind=one_of(kind), metadata=METADATA, **fields)


RAY_CLUSTER = document("ray.io/v1", "RayCluster", spec=CLUSTER_SPEC)
RAY_JOB = document("ray.io/v1", "RayJob", spec=JOB_SPEC)
SERVICE_ACCOUNT = document("v1", "ServiceAccount", automountServiceAccountToken=FLAG, imagePullSecrets=many(ANY))
