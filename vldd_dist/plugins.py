"""The plug-ins of each kind, by the names that descriptions use.

To add one, write its file and enter it here. A module is imported when its plug-in is first needed, so that reading a
description loads only the plug-ins that it names. An installed package adds its own plug-ins by entry points of the group
`vldd_dist.KIND`, for example `vldd_dist.coresets` (docs/extending.md).
"""

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from inspect import isclass
from typing import Any

from vldd_dist.errors import NameTaken, did_you_mean


class Registry:
    """Plug-ins of one kind.

    Args:
        kind: the kind in the singular, for messages.
        interface: "module:class"; plug-ins of this kind are subclasses of it, stages and gradients are instances of it.
        entries: name -> "module:attribute".
        group: group of the entry points; by default made from the plural of the kind.
    """

    def __init__(self, kind: str, interface: str, entries: dict[str, str], group: str = "") -> None:
        self.kind = kind
        self.interface = interface
        self.entries = entries
        self.group = group or f"vldd_dist.{kind}s"

    def __iter__(self) -> Iterator[str]:
        """The names of all plug-ins, those of this package first."""
        yield from self.entries
        yield from (name for name in self._installed if name not in self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._installed

    def load(self, name: str) -> Any:
        """The plug-in with this name, imported.

        Raises:
            ValueError: there is no such plug-in, and the message lists the names; or it is not registered correctly, or lacks a
                method.
            NameTaken: several have this name.
        """
        # The same target twice is one plug-in: an editable installation can be found at two places.
        targets = sorted(self._installed.get(name, set()) | ({self.entries[name]} if name in self.entries else set()))
        if not targets:
            hint = did_you_mean(name, self)
            raise ValueError(f"there is no {self.kind} {name!r}: choose one of {', '.join(self)}{hint}")
        # Which of them is found first may differ from machine to machine, and the ids of units have only the name.
        if len(targets) > 1:
            raise NameTaken(
                f"the {self.kind} {name!r} is registered as {' and as '.join(targets)}: register all but one under other "
                "names, or uninstall their packages"
            )
        target = targets[0]
        module, _, attribute = target.partition(":")
        entry = f"the {self.kind} {name!r} is registered as {target}, but"
        try:
            found = getattr(import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            # Another missing module is an error in the plug-in's own file.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ValueError(f"{entry} there is no module {error.name}: install it, or correct the entry") from None
        if found is None:
            raise ValueError(f"{entry} {module} has no {attribute!r}: correct the entry, which is MODULE:NAME")
        interface = self._interface
        if not issubclass(found if isclass(found) else type(found), interface):
            raise ValueError(f"{entry} that is no {interface.__name__}: correct the entry, or derive it from {self.interface}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise ValueError(f"{entry} that lacks the method {missing[0]}: write it")
        return found

    @cached_property
    def _interface(self) -> type:
        module, _, name = self.interface.partition(":")
        found: type = getattr(import_module(module), name)
        return found

    @cached_property
    def _installed(self) -> dict[str, set[str]]:
        """Name -> targets of installed packages' entry points. It is cached, because reading the entry points of all packages
        takes milliseconds and names are looked up for every manifest."""
        targets: dict[str, set[str]] = {}
        for point in entry_points(group=self.group):
            targets.setdefault(point.name, set()).add(point.value)
        return targets


STAGES = Registry(
    "stage",
    "vldd_dist.pipeline.stage:StageSpec",
    {
        "shard_group": "vldd_dist.pipeline.stages.data.shard_group:STAGE",
        "dataset": "vldd_dist.pipeline.stages.data.dataset:STAGE",
        "image_weights": "vldd_dist.pipeline.stages.data.image_weights:STAGE",
        "embedding_group": "vldd_dist.pipeline.stages.data.embedding_group:STAGE",
        "caption_embeddings": "vldd_dist.pipeline.stages.data.caption_embeddings:STAGE",
        "feature_group": "vldd_dist.pipeline.stages.data.feature_group:STAGE",
        "image_features": "vldd_dist.pipeline.stages.data.image_features:STAGE",
        "expert": "vldd_dist.pipeline.stages.expert:STAGE",
        "features": "vldd_dist.pipeline.stages.expert_features:STAGE",
        "coreset": "vldd_dist.pipeline.stages.coreset:STAGE",
        "distillation": "vldd_dist.pipeline.stages.distillation:STAGE",
        "evaluation": "vldd_dist.pipeline.stages.evaluation:STAGE",
        "application": "vldd_dist.pipeline.stages.application:STAGE",
        "publication": "vldd_dist.pipeline.stages.publication:STAGE",
    },
)

SOURCES = Registry(
    "source",
    "vldd_dist.data.sources.base:Source",
    {
        "scenes": "vldd_dist.data.sources.scenes:Scenes",
        "karpathy": "vldd_dist.data.sources.karpathy:Karpathy",
        "shards": "vldd_dist.data.sources.shards:Shards",
        "coco": "vldd_dist.data.sources.coco:Coco",
        "folder": "vldd_dist.data.sources.folder:Folder",
        "hf": "vldd_dist.data.sources.hf:HuggingFace",
        "table": "vldd_dist.data.sources.table:TableSource",
    },
)

CORESETS = Registry(
    "coreset",
    "vldd_dist.coresets.base:Coreset",
    {
        "random": "vldd_dist.coresets.random:RandomPairs",
        "herding": "vldd_dist.coresets.herding:Herding",
        "k_center": "vldd_dist.coresets.k_center:KCenter",
        "k_means": "vldd_dist.coresets.k_means:KMeans",
        "forgetting": "vldd_dist.coresets.forgetting:Forgetting",
        "facility_location": "vldd_dist.coresets.facility_location:FacilityLocation",
        "clip_score": "vldd_dist.coresets.clip_score:ClipScore",
        "prototypes": "vldd_dist.coresets.prototypes:Prototypes",
    },
)

INITIALISATIONS = Registry(
    "initialisation",
    "vldd_dist.distillation.initialisations.base:Initialisation",
    {
        "real": "vldd_dist.distillation.initialisations.real:RandomRealPairs",
        "noise": "vldd_dist.distillation.initialisations.noise:Noise",
        "k_means": "vldd_dist.distillation.initialisations.k_means:KMeansPairs",
        "by_modality": "vldd_dist.distillation.initialisations.by_modality:ByModality",
    },
)

LOSSES = Registry(
    "loss",
    "vldd_dist.models.losses.base:Loss",
    {
        "infonce": "vldd_dist.models.losses.infonce:InfoNCE",
        "wbce": "vldd_dist.models.losses.wbce:WeightedBCE",
        "weighted_infonce": "vldd_dist.models.losses.weighted_infonce:WeightedInfoNCE",
        "ence": "vldd_dist.models.losses.ence:ExtendedInfoNCE",
        "cwcl": "vldd_dist.models.losses.cwcl:CWCL",
        "mse": "vldd_dist.models.losses.mse:MeanSquaredError",
    },
    group="vldd_dist.losses",
)

OBJECTIVES = Registry(
    "objective",
    "vldd_dist.distillation.objectives.base:Objective",
    {
        "trajectory_matching": "vldd_dist.distillation.objectives.trajectory_matching:TrajectoryMatching",
        "bilevel": "vldd_dist.distillation.objectives.bilevel:Bilevel",
        "covariance_matching": "vldd_dist.distillation.objectives.covariance_matching:CovarianceMatching",
        "whitened_matching": "vldd_dist.distillation.objectives.whitened_matching:WhitenedMatching",
        "distribution_matching": "vldd_dist.distillation.objectives.distribution_matching:DistributionMatching",
    },
)

GRADIENTS = Registry(
    "gradient",
    "vldd_dist.distillation.unroll.protocol:Gradient",
    {
        "full": "vldd_dist.distillation.unroll.full:FULL",
        "exact": "vldd_dist.distillation.unroll.exact:EXACT",
        "finite_difference": "vldd_dist.distillation.unroll.finite_difference:FINITE_DIFFERENCE",
        "tesla": "vldd_dist.distillation.unroll.tesla:TESLA",
    },
)

METRICS = Registry(
    "metric", "vldd_dist.retrieval.metrics.base:Metric", {"median_rank": "vldd_dist.retrieval.metrics.median_rank:MedianRank"}
)

APPLICATIONS = Registry(
    "application",
    "vldd_dist.applications.base:Application",
    {
        "architecture_search": "vldd_dist.applications.architecture_search:ArchitectureSearch",
        "membership_inference": "vldd_dist.applications.membership_inference:MembershipInference",
        "continual_learning": "vldd_dist.applications.continual_learning:ContinualLearning",
        "one_shot_federated": "vldd_dist.applications.one_shot_federated:OneShotFederated",
    },
)

REGISTRIES = (STAGES, SOURCES, CORESETS, INITIALISATIONS, LOSSES, OBJECTIVES, GRADIENTS, METRICS, APPLICATIONS)


def load_all() -> None:
    """Import every plug-in of this package, in a process whose copy of the package may be removed while it runs. Another
    package may have one of their names: only the units that need that plug-in may fail."""
    for registry in REGISTRIES:
        for target in registry.entries.values():
            import_module(target.partition(":")[0])
