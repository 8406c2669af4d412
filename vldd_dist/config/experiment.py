"""The typed description of an experiment: one YAML file, unknown keys refused, checked as a whole before anything runs."""

import math
from typing import Literal

from pydantic import Field, model_validator

from vldd_dist.config.base import Positive, Section, Seed
from vldd_dist.config.sections.applications import ApplicationsSettings
from vldd_dist.config.sections.coresets import CoresetSettings
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.config.sections.distillation import DistillationsSettings
from vldd_dist.config.sections.evaluation import EvaluationSettings, EvaluationsSettings, ImageModelSettings
from vldd_dist.config.sections.experts import ExpertsSettings
from vldd_dist.config.sections.model import NAMED_WEIGHTS, ImageTowerSettings, ModelSettings
from vldd_dist.config.sections.starting_weights import EmbeddingSettings, PretrainSettings

# Each of a run's units is known to its driver.
MOST_UNITS = 1_000_000


class Experiment(Section):
    """Everything one experiment depends on; `pipeline.graph` turns it into work units."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100, description="Short name: lower-case letters, digits, dashes."
    )
    seed: Seed = Field(0, description="Root of all randomness.")
    data: DataSettings = DataSettings()
    model: ModelSettings = Field(default_factory=ModelSettings)
    pretrain: PretrainSettings = PretrainSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    experts: ExpertsSettings = ExpertsSettings()
    distill: DistillationsSettings = Field(default_factory=DistillationsSettings)
    coresets: CoresetSettings = CoresetSettings()
    evaluation: EvaluationsSettings = EvaluationsSettings()
    applications: ApplicationsSettings = ApplicationsSettings()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda for workers that ask for a GPU, else cpu.")
    stall_timeout_seconds: Positive | None = Field(
        None,
        description="A unit that reports nothing for so long is ended and tried again, on another machine "
        "if there is one; none: never. Well above the longest time between two reports, a validation's for instance.",
    )

    def image_models(self) -> list[str]:
        """Names of the timm models that students are evaluated on, the experiment's own first."""
        return list(dict.fromkeys([self.model.image.model, *(entry.model for entry in self.evaluation.image_models)]))

    def image_tower(self, name: str) -> ImageTowerSettings:
        """Of the image model with this name, one of `image_models`."""
        own = self.model.image
        return own if name == own.model else self._entry(name).tower(own)

    def evaluation_on(self, name: str) -> EvaluationSettings:
        """The protocol of students of the image model with this name, one of `image_models`."""
        fields = {field: getattr(self.evaluation, field) for field in EvaluationSettings.model_fields}
        if name != self.model.image.model and (rates := self._entry(name).learning_rates):
            fields["learning_rates"] = rates
        return EvaluationSettings(**fields)

    def _entry(self, name: str) -> ImageModelSettings:
        return next(entry for entry in self.evaluation.image_models if entry.model == name)

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        for problem in (*_model_problems(self), *_distill_problems(self), *_application_problems(self), *_size_problems(self)):
            raise ValueError(problem)
        return self


def _model_problems(experiment: Experiment) -> list[str]:
    image, text = experiment.model.image, experiment.model.text
    problems = [*_image_model_problems(experiment), *_attribute_problems(experiment)]
    for tower, settings in (("image", image), ("text", text)):
        if settings.train == "frozen" and settings.head.kind != "none":
            problems.append(
                f"model.{tower}.train: frozen would freeze a random head; set model.{tower}.head.kind to none or train to head"
            )
        if settings.train == "head" and settings.head.kind == "none":
            problems.append(f"model.{tower}.train: head needs a head; set model.{tower}.head.kind to linear or projection")
    if image.train == text.train == "frozen":
        problems.append("model.image.train and model.text.train are both frozen: nothing is left to train")
    if image.head.kind != "none" and experiment.model.joint_dim is None:
        problems.append("model.joint_dim is needed when model.image.head.kind is not none: give the joint space's size")
    return problems


def _image_model_problems(experiment: Experiment) -> list[str]:
    own, problems = experiment.model.image, []
    for entry in experiment.evaluation.image_models:
        other = [field for field in entry.model_fields_set if getattr(entry, field) != getattr(own, field, None)]
        if entry.model == own.model and other:
            problems.append(
                f"evaluation.image_models: {entry.model} is model.image.model, whose row is there without it: "
                f"take out the entry or its {min(other)}"
            )
        if entry.model != own.model and entry.weights is None and own.weights not in NAMED_WEIGHTS:
            problems.append(
                f"evaluation.image_models: {entry.model} needs weights of its own (timm, random, attributes or a file), because "
                f"model.image.weights is a file of {own.model}: write {{model: {entry.model}, weights: ...}}"
            )
    return problems


def _attribute_problems(experiment: Experiment) -> list[str]:
    learning = [name for name in experiment.image_models() if experiment.image_tower(name).weights == "attributes"]
    if not learning:
        return []
    problems, pretrain = [], experiment.pretrain
    if experiment.data.source.name != "scenes":
        key = "model.image.weights" if learning[0] == experiment.model.image.model else "weights in evaluation.image_models"
        problems.append(f"{key}: attributes belongs to data.source: scenes; name a .safetensors file, timm or random")
    if pretrain.images % pretrain.batch_size == 1:
        problems.append(
            f"pretrain.images ({pretrain.images}) leaves a last batch of one image, from which batch norms cannot learn: "
            "change pretrain.images or pretrain.batch_size by one"
        )
    return problems


def _distill_problems(experiment: Experiment) -> list[str]:
    distill, experts, data = experiment.distill, experiment.experts, experiment.data
    problems = []
    problems += _rank_problems(experiment)
    problems += _phase_problems(experiment)
    if len(distill.fixed()) == len(distill.rates()):
        problems.append("distill.lr_images and distill.lr_texts are both 0, so that no pair would move: set one above 0")
    train_images = data.source.stated_count("train", data.train_images)
    if train_images is not None:
        shards = math.ceil(train_images / data.shard_images)
        if max(distill.pairs) > train_images:
            problems.append(f"distill.pairs ({max(distill.pairs)}) is more than the training images ({train_images}): lower it")
        if experts.readers > shards:
            problems.append(
                f"experts.readers ({experts.readers}) is more than the training shards ({shards}): lower it, or lower "
                "data.shard_images for more shards"
            )
    return problems


def _application_problems(experiment: Experiment) -> list[str]:
    image, used = experiment.model.image, experiment.applications.run
    if used and (image.train not in ("head", "frozen") or image.weights == "random"):
        return [
            "applications.run: students are trained on features of a frozen image tower with weights: set model.image.train to head "
            "and model.image.weights to anything but random"
        ]
    return [problem for application in used for problem in application.problems(experiment)]


def _phase_problems(experiment: Experiment) -> list[str]:
    """Of the objective, in each phase."""
    distill, loss = experiment.distill, experiment.model.loss
    problems: list[str] = []
    for number, settings in enumerate(distill.of_phases()):
        found = settings.objective.problems(experiment.model_copy(update={"distill": settings}))
        problems += [f"distill.phases.{number}: {problem}" for problem in found] if distill.phases else found
    if distill.phases and distill.workers > 1:
        problems.append("distill.phases are learned by one process: set distill.workers to 1")
    if distill.phases and (shared := loss.learned_shared()):
        problems.append(
            f"distill.phases: each phase would learn a {next(iter(shared))} of its own, and a set has one: let model.loss learn none"
        )
    return problems


def _size_problems(experiment: Experiment) -> list[str]:
    distill, evaluation = experiment.distill, experiment.evaluation
    sets = len(distill.pairs) * (len(distill.seeds) + len(experiment.coresets.methods) * len(evaluation.seeds))
    units = experiment.experts.count + sets * len(evaluation.seeds) * (1 + len(evaluation.image_models))
    if units > MOST_UNITS:
        return [
            f"experts.count, distill and evaluation ask for about {units:,} units, more than {MOST_UNITS:,}: lower the count, "
            "or shorten the lists"
        ]
    return []


def _rank_problems(experiment: Experiment) -> list[str]:
    distill, experts, image = experiment.distill, experiment.experts, experiment.model.image
    problems = []
    smallest = min([*distill.pairs, *([distill.batch_size] if distill.batch_size else [])])
    for section, workers, batch in (("distill", distill.workers, smallest), ("experts", experts.workers, experts.batch_size)):
        if workers > batch:
            problems.append(f"{section}.workers ({workers}) is more than the pairs of a step ({batch}): lower it")
    for section, sharding in (("distill", distill.sharding), ("experts", experts.sharding)):
        if sharding != "none" and image.train in ("head", "frozen"):
            problems.append(
                f"{section}.sharding ({sharding}) shards what moves, and with model.image.train: {image.train} only heads do: "
                "set it to none"
            )
    return problems
