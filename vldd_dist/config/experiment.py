"""The typed description of an experiment. It is checked as a whole before anything runs."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from vldd_dist.config.base import AnyPlugin, Device, Positive, Section, Seed
from vldd_dist.config.sections.applications import ApplicationsSettings
from vldd_dist.config.sections.coresets import CoresetSettings
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.config.sections.distillation import DistillSection
from vldd_dist.config.sections.embeddings import EmbeddingSettings
from vldd_dist.config.sections.evaluation import EvaluationProtocol, EvaluationSection, ImageModelSettings
from vldd_dist.config.sections.experts import ExpertsSection
from vldd_dist.config.sections.model import NAMED_WEIGHTS, ImageTowerSettings, ModelSettings
from vldd_dist.config.sections.pretrain import PretrainSettings

# The driver keeps every unit of a run in memory.
MOST_UNITS = 1_000_000


class Experiment(Section):
    """All settings of one experiment; `pipeline.graphs` turns them into work units."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100, description="Short name: lower-case letters, digits, dashes."
    )
    seed: Seed = Field(0, description="Root of all randomness.")
    # The defaults of data and coresets name plug-ins. They are loaded with a description and not with this module, so that a name
    # that another package has taken is an error of the descriptions that use it.
    data: DataSettings = Field({}, validate_default=True)
    model: ModelSettings = Field(default_factory=ModelSettings)
    pretrain: PretrainSettings = PretrainSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    experts: ExpertsSection = ExpertsSection()
    distill: DistillSection = Field(default_factory=DistillSection)
    coresets: CoresetSettings = Field({}, validate_default=True)
    evaluation: EvaluationSection = EvaluationSection()
    applications: ApplicationsSettings = ApplicationsSettings()
    device: Device = Field("auto", description="auto: a GPU for workers that request one, the CPU for others.")
    stall_timeout_seconds: Positive | None = Field(
        None,
        description="A unit whose worker has started and then reports nothing for this long is stopped and retried, on another "
        "machine if there is one; null: never. Choose it well above the longest time between two reports, for example that of a "
        "validation, or of a whole coreset or publication, and above 15 minutes, for which a unit may wait for a store that does not answer.",
    )

    @property
    def experiments(self) -> Mapping[str, "Experiment"]:
        """See `Described`."""
        return {self.name: self}

    def with_experiments(self, experiments: Mapping[str, "Experiment"]) -> "Experiment":
        return experiments[self.name]

    def resolved(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def tree(self) -> dict[str, Any]:
        return self.resolved()

    def image_models(self) -> list[str]:
        """Names of the timm models that students are evaluated with; `model.image.model` is the first."""
        return list(dict.fromkeys([self.model.image.model, *(entry.model for entry in self.evaluation.image_models)]))

    def image_tower(self, name: str) -> ImageTowerSettings:
        """The settings of the image tower with this model, which is one of `image_models`."""
        default = self.model.image
        return default if name == default.model else self._entry(name).tower(default)

    def evaluation_on(self, name: str) -> EvaluationProtocol:
        """The evaluation settings for students with this image model, which is one of `image_models`."""
        own = None if name == self.model.image.model else self._entry(name).learning_rates
        return self.evaluation.narrowed_to(EvaluationProtocol, **({"learning_rates": own} if own else {}))

    def _entry(self, name: str) -> ImageModelSettings:
        return next(entry for entry in self.evaluation.image_models if entry.model == name)

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        conflicts = [
            *_device_conflicts(self),
            *_model_conflicts(self),
            *_distill_conflicts(self),
            *_application_conflicts(self),
            *_size_conflicts(self),
        ]
        if conflicts:
            raise ValueError(conflicts[0])
        return self


def _device_conflicts(experiment: Experiment) -> list[str]:
    if experiment.device == "auto":
        return []
    sections = {name: getattr(experiment, name) for name in Experiment.model_fields}
    gpus = {name: section.resources.gpus for name, section in sections.items() if hasattr(section, "resources")}
    return [
        f"{name}.resources.gpus ({reserved:g}): device: cpu computes without the GPUs that this reserves: set device to auto, or "
        "gpus to 0"
        for name, reserved in gpus.items()
        if reserved > 0
    ]


def _model_conflicts(experiment: Experiment) -> list[str]:
    image, text = experiment.model.image, experiment.model.text
    conflicts = [*_image_model_conflicts(experiment), *_attribute_conflicts(experiment)]
    for tower, settings in (("image", image), ("text", text)):
        if settings.train == "frozen" and settings.head.kind != "none":
            conflicts.append(
                f"model.{tower}.train: frozen would freeze a random head: set model.{tower}.head.kind to none or train to head"
            )
        if settings.train == "head" and settings.head.kind == "none":
            conflicts.append(f"model.{tower}.train: head needs a head: set model.{tower}.head.kind to linear or projection")
    if image.train == text.train == "frozen":
        conflicts.append("model.image.train and model.text.train are both frozen, so that nothing is trained: set one to head")
    if image.head.kind != "none" and experiment.model.joint_dim is None:
        conflicts.append("model.joint_dim is needed when model.image.head.kind is not none: give the joint space's size")
    return conflicts


def _image_model_conflicts(experiment: Experiment) -> list[str]:
    default = experiment.model.image
    conflicts = []
    for entry in experiment.evaluation.image_models:
        differing = [field for field in entry.model_fields_set if getattr(entry, field) != getattr(default, field, None)]
        if entry.model == default.model and differing:
            conflicts.append(
                f"evaluation.image_models: {entry.model} is model.image.model, which always has a row of its own: "
                f"remove the entry or its {min(differing)}"
            )
        if entry.model != default.model and entry.weights is None and default.weights not in NAMED_WEIGHTS:
            conflicts.append(
                f"evaluation.image_models: {entry.model} needs weights of its own (timm, random, attributes or a file), because "
                f"model.image.weights is a file of {default.model}: write {{model: {entry.model}, weights: ...}}"
            )
    return conflicts


def _attribute_conflicts(experiment: Experiment) -> list[str]:
    pretrained = [name for name in experiment.image_models() if experiment.image_tower(name).weights == "attributes"]
    if not pretrained:
        return []
    conflicts = []
    pretrain = experiment.pretrain
    if experiment.data.source.name != "scenes":
        key = "model.image.weights" if pretrained[0] == experiment.model.image.model else "weights in evaluation.image_models"
        conflicts.append(f"{key}: attributes needs data.source: scenes: name a .safetensors file, timm or random")
    if pretrain.images % pretrain.batch_size == 1:
        conflicts.append(
            f"pretrain.images ({pretrain.images}) leaves a last batch of one image, which batch normalisation cannot be trained on: "
            "change pretrain.images or pretrain.batch_size by one"
        )
    return conflicts


def _distill_conflicts(experiment: Experiment) -> list[str]:
    distill, data = experiment.distill, experiment.data
    conflicts = [*_rank_conflicts(experiment), *_phase_conflicts(experiment)]
    of_loss = experiment.model.loss.learned_rows
    if len(distill.fixed()) == len(distill.outer_rates()) and not any(tensor.lr for tensor in of_loss(range(1), 1).values()):
        conflicts.append(
            "distill.lr_images and distill.lr_texts are both 0, so that nothing of the pairs is learned: set one above 0, or let "
            "model.loss learn a similarity"
        )
    counts = [pairs for settings in distill.of_phases() for pairs in settings.pairs]
    if experiment.evaluation.batch_size == 2 and (odd := [count for count in counts if count % 2]):
        conflicts.append(
            f"evaluation.batch_size: batches of 2 leave one of {odd[0]} pairs alone, and a contrastive loss learns nothing from "
            "one: set 3 or more"
        )
    train_images = data.source.most_samples("train", data.train_images)
    if train_images is not None:
        conflicts += count_conflicts(experiment, train_images, math.ceil(train_images / data.group_images))
    return conflicts


def count_conflicts(experiment: Experiment, train_images: int, groups: int) -> list[str]:
    """What asks for more than this number of training images, or for more shards than they can fill.

    Args:
        groups: the number of groups in which they are prepared; each may end with a shard that is not full.
    """
    conflicts = []
    pairs, readers = max(experiment.distill.pairs), experiment.experts.readers
    shards = math.ceil(train_images / experiment.data.shard_images) + groups - 1
    if pairs > train_images:
        conflicts.append(f"distill.pairs ({pairs}) is more than the training images ({train_images}): lower it")
    if readers > shards:
        conflicts.append(
            f"experts.readers ({readers}) is more than the training shards ({shards}): lower it, or lower "
            "data.shard_images for more shards"
        )
    for application in experiment.applications.run:
        conflicts += application.count_conflicts(train_images)
    return conflicts


def _application_conflicts(experiment: Experiment) -> list[str]:
    applications = experiment.applications.run
    if applications and not experiment.model.has_features:
        return [
            "applications.run: students are trained on features of a frozen image backbone with pretrained weights: set "
            "model.image.train to head and model.image.weights to anything but random"
        ]
    return [conflict for application in applications for conflict in application.conflicts(experiment)]


def _phase_conflicts(experiment: Experiment) -> list[str]:
    """Conflicts of the objective, in each phase, and of phases with several workers or learned loss parameters."""
    distill, loss = experiment.distill, experiment.model.loss
    conflicts: list[str] = []
    for number, settings in enumerate(distill.of_phases()):
        objective_conflicts = settings.objective.conflicts(experiment.model_copy(update={"distill": settings}))
        objective_conflicts = objective_conflicts or _epoch_conflicts(settings.objective, experiment.experts.epochs)
        prefix = f"distill.phases.{number}: " if distill.phases else ""
        conflicts += [prefix + conflict for conflict in objective_conflicts]
    if distill.phases and not distill.objective.in_phases:
        conflicts.append(
            f"distill.phases: {distill.objective.name} learns no pairs for students that are already trained on those of earlier "
            "phases: leave phases out, or choose trajectory_matching"
        )
    if distill.phases and distill.workers > 1:
        conflicts.append("distill.phases are learned by one process: set distill.workers to 1")
    if distill.phases and (shared := loss.learned_shared()):
        conflicts.append(
            f"distill.phases: each phase would learn its own {next(iter(shared))}, but a distilled set has only one: choose a "
            "model.loss that learns none"
        )
    of_objective = distill.objective.learned_shared().keys() - distill.objective.restarted
    if distill.phases and of_objective:
        conflicts.append(
            f"distill.phases: each phase of {distill.objective.name} would learn its own {min(of_objective)}, but a distilled set "
            "has only one: leave phases out"
        )
    return conflicts


def _epoch_conflicts(objective: AnyPlugin, epochs: int) -> list[str]:
    last = max(objective.reached_epochs(), default=0)
    if last <= epochs:
        return []
    return [
        f"distill.objective: {objective.name} reads the experts' snapshots of epoch {last}, more than experts.epochs ({epochs}): "
        "train longer"
    ]


def _size_conflicts(experiment: Experiment) -> list[str]:
    distill, evaluation = experiment.distill, experiment.evaluation
    sets = len(distill.pairs) * (len(distill.seeds) + len(experiment.coresets.methods) * len(evaluation.seeds))
    units = experiment.experts.count + sets * len(evaluation.seeds) * (1 + len(evaluation.image_models))
    if units > MOST_UNITS:
        return [
            f"experts.count, distill and evaluation ask for about {units:,} units, more than {MOST_UNITS:,}: lower the count, "
            "or shorten the lists of pairs, seeds, methods and image towers"
        ]
    return []


def _rank_conflicts(experiment: Experiment) -> list[str]:
    distill, experts, image = experiment.distill, experiment.experts, experiment.model.image
    conflicts = []
    sections: dict[str, DistillSection | ExpertsSection] = {"distill": distill, "experts": experts}
    smallest = min([*distill.pairs, *([distill.batch_size] if distill.batch_size else [])])
    batches = {"distill": smallest, "experts": experts.batch_size}
    for name, section in sections.items():
        if section.workers > batches[name]:
            conflicts.append(f"{name}.workers ({section.workers}) is more than the pairs in a step ({batches[name]}): lower it")
    for name, section in sections.items():
        if section.workers > 1 and 0 < section.resources.gpus < 1:
            conflicts.append(
                f"{name}.resources.gpus ({section.resources.gpus:g}): the ranks of a unit cannot share a GPU: set it to 1, or "
                f"{name}.workers to 1"
            )
    for name, section in sections.items():
        if section.sharding != "none" and image.freezes_backbone:
            conflicts.append(
                f"{name}.sharding ({section.sharding}) shards trained parameters, but with model.image.train: {image.train} "
                "only heads are trained: set it to none"
            )
    return conflicts
