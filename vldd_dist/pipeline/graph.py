"""From an experiment to the graph of its work units."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from vldd_dist.config.base import Section
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.model import ModelSettings
from vldd_dist.data.sources import describe
from vldd_dist.distillation.kinks import refuse_kinks
from vldd_dist.errors import ConfigError
from vldd_dist.models.identity import text_identity, weights_identity
from vldd_dist.models.image import check_backbone_name, create_backbone
from vldd_dist.pipeline.work_unit import Until, WorkUnit, in_dependency_order

# How a unit is made, without effect on what comes out.
EXPERT_EXECUTION = ("workers", "zero_stage", "rank_timeout_seconds", "readers", "cache_mib")
DISTILL_EXECUTION = (
    "workers",
    "zero_stage",
    "rank_timeout_seconds",
    "offload_snapshots",
    "checkpoint_every",
    "check_tolerance",
    "check_every",
)

Method = Literal["random", "herding", "k_center", "forgetting", "distilled"]


@dataclass(frozen=True)
class EvaluatedSet:
    """One set of pairs and the units that judge it: a line of the report's table.

    Attributes:
        method: distilled or a coreset method.
        pairs: the budget M.
        seed: of the distillation run, or of the selection.
        source: the unit that makes the pairs.
        evaluations: image model -> one unit a seed.
    """

    method: Method
    pairs: int
    seed: int
    source: WorkUnit
    evaluations: dict[str, list[WorkUnit]]


@dataclass(frozen=True)
class Plan:
    """All units of an experiment, by what the report needs of them."""

    dataset: WorkUnit
    experts: list[WorkUnit]
    full: list[WorkUnit]
    sets: list[EvaluatedSet]
    publications: list[WorkUnit]

    def units(self, until: Until = "publications") -> list[WorkUnit]:
        """Every unit up to a stage once, inputs first."""
        if until == "data":
            return in_dependency_order([self.dataset, *(expert.inputs["embeddings"] for expert in self.experts)])
        if until == "experts":
            return in_dependency_order(self.experts)
        if until == "distillations":
            return in_dependency_order([chosen.source for chosen in self.sets if chosen.method == "distilled"])
        judged = [unit for s in self.sets for units in s.evaluations.values() for unit in units]
        return in_dependency_order([*self.full, *judged, *self.publications])


def make_plan(experiment: Experiment) -> Plan:
    """The graph: dataset -> caption embeddings -> experts -> coresets and distillations -> evaluations -> publications.

    Raises:
        ConfigError, DataError: a source, weights file or text encoder that the description names is not there.
    """
    return _Planner(experiment).plan()


def _dump(section: Section, *execution: str) -> dict[str, Any]:
    """A section without its resources and the fields that do not change the output."""
    return section.model_dump(mode="json", exclude={"resources", *execution})


class _Planner:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        for name in [experiment.model.image.model, *experiment.evaluation.image_models]:
            check_backbone_name(name)
        self._refuse_kinks()
        self.dataset = self._dataset()
        self.embeddings = self._embeddings()
        self.experts = [self._expert(index) for index in range(experiment.experts.count)]

    def plan(self) -> Plan:
        experiment = self.experiment
        distilled = [
            self._judge("distilled", pairs, seed, self._distillation(pairs, seed))
            for pairs in experiment.distill.pairs
            for seed in experiment.distill.seeds
        ]
        coresets = [
            self._coreset_rows(method, pairs) for pairs in experiment.distill.pairs for method in experiment.coresets.methods
        ]
        coreset_sets = [row for rows in coresets for row in rows]
        return Plan(
            dataset=self.dataset,
            experts=self.experts,
            full=[self._full_evaluation(index, unit) for index, unit in enumerate(self.experts)],
            sets=[*coreset_sets, *distilled],
            publications=[
                self._publication(chosen, [row for row in coreset_sets if row.pairs == chosen.pairs]) for chosen in distilled
            ],
        )

    def _refuse_kinks(self) -> None:
        """Before experts are trained for a distillation that would refuse the student when it starts."""
        image = self.experiment.model.image
        if self.experiment.distill.gradient == "finite_difference" and image.train in ("full", "lora"):
            with torch.device("meta"):
                backbone = create_backbone(image.model, image.model_args, pretrained=False, seed=0)
            refuse_kinks(backbone, "image_backbone")

    def _model(self, image_model: str | None = None) -> ModelSettings:
        model = self.experiment.model
        if image_model is None:
            return model
        image = model.image.model_copy(update={"model": image_model, "model_args": {}})
        return model.model_copy(update={"image": image})

    def _model_inputs(self, model: ModelSettings) -> dict[str, WorkUnit]:
        """What building the dual encoder takes from the store."""
        weights = self._image_weights(model)
        return {"embeddings": self.embeddings} | ({"image_weights": weights} if weights else {})

    def _model_spec(self, model: ModelSettings) -> dict[str, Any]:
        spec = _dump(model)
        # A file's content is in the image_weights unit's id: where it lay does not matter.
        if model.image.weights not in ("timm", "random", "attributes"):
            spec["image"]["weights"] = "file"
        return spec

    def _execution(self, **more: Any) -> dict[str, Any]:
        return {"device": self.experiment.device, **more}

    def _dataset(self) -> WorkUnit:
        data, seed = self.experiment.data, self.experiment.seed
        # Where the pictures lie is not what they are: `describe` names their content.
        spec: dict[str, Any] = {
            "settings": _dump(data, "train", "val", "test", "annotations", "images"),
            "source": describe(data),
        }
        if data.source == "scenes":
            spec["seed"] = seed
        return WorkUnit("dataset", spec, execution={"settings": data.model_dump(mode="json"), "seed": seed}, label="dataset")

    def _embeddings(self) -> WorkUnit:
        text, settings = self.experiment.model.text, self.experiment.embeddings
        return WorkUnit(
            "caption_embeddings",
            {"text": text_identity(text)},
            {"dataset": self.dataset},
            self._execution(text=text.model_dump(mode="json"), batch_size=settings.batch_size),
            settings.resources,
            "caption embeddings",
        )

    def _image_weights(self, model: ModelSettings) -> WorkUnit | None:
        image, experiment = model.image, self.experiment
        if image.weights == "random":
            return None
        spec: dict[str, Any] = {"model": image.model, "model_args": image.model_args}
        if image.weights == "attributes":
            spec |= {
                "attributes": _dump(experiment.pretrain),
                "image_size": experiment.data.image_size,
                "mean": list(image.mean),
                "std": list(image.std),
                "seed": experiment.seed,
            }
            resources = experiment.pretrain.resources
        else:
            spec |= weights_identity(image)
            resources = experiment.embeddings.resources
        return WorkUnit(
            "image_weights",
            spec,
            execution=self._execution(weights=image.weights),
            resources=resources,
            label=f"image weights {image.model}",
        )

    def _expert(self, index: int) -> WorkUnit:
        experiment, settings = self.experiment, self.experiment.experts
        reach = experiment.distill.max_start_epoch + experiment.distill.expert_epochs
        kept = range(settings.epochs + 1) if settings.keep == "all" else sorted({*range(reach + 1), settings.epochs})
        spec = {
            "training": _dump(settings, "count", "keep", *EXPERT_EXECUTION),
            "kept_epochs": list(kept),
            "model": self._model_spec(experiment.model),
            "seed": experiment.seed,
            "index": index,
        }
        execution = self._execution(
            encode_batch=experiment.evaluation.encode_batch, **{key: getattr(settings, key) for key in EXPERT_EXECUTION}
        )
        inputs = {"dataset": self.dataset, **self._model_inputs(experiment.model)}
        return WorkUnit("expert", spec, inputs, execution, settings.resources, f"expert {index}", settings.workers)

    def _features(self, index: int) -> WorkUnit:
        experiment = self.experiment
        return WorkUnit(
            "features",
            {"model": self._model_spec(experiment.model), "seed": experiment.seed},
            {"dataset": self.dataset, "expert": self.experts[index], **self._model_inputs(experiment.model)},
            self._execution(encode_batch=experiment.evaluation.encode_batch),
            experiment.coresets.resources,
            f"features of expert {index}",
        )

    def _coreset_rows(self, method: Method, pairs: int) -> list[EvaluatedSet]:
        """One selection for each evaluation seed, each from another expert, judged with that seed."""
        rows = []
        for position, seed in enumerate(self.experiment.evaluation.seeds):
            expert = position % len(self.experts)
            inputs = {"dataset": self.dataset, "embeddings": self.embeddings}
            if method in ("herding", "k_center"):
                inputs["features"] = self._features(expert)
            if method == "forgetting":
                inputs["expert"] = self.experts[expert]
            unit = WorkUnit(
                "coreset",
                {"method": method, "pairs": pairs, "seed": seed},
                inputs,
                self._execution(),
                self.experiment.coresets.resources,
                f"{method} {pairs} pairs seed {seed}",
            )
            rows.append(self._judge(method, pairs, seed, unit, evaluation_seeds=[seed]))
        return rows

    def _distillation(self, pairs: int, seed: int) -> WorkUnit:
        experiment, settings = self.experiment, self.experiment.distill
        spec = {
            "settings": _dump(settings, "pairs", "seeds", *DISTILL_EXECUTION),
            "validation": self._protocol(),
            "model": self._model_spec(experiment.model),
            "pairs": pairs,
            "seed": seed,
        }
        execution = self._execution(
            encode_batch=experiment.evaluation.encode_batch,
            **{key: getattr(settings, key) for key in DISTILL_EXECUTION},
        )
        inputs = {"dataset": self.dataset, **self._model_inputs(experiment.model)}
        experts = {f"expert_{index:03d}": unit for index, unit in enumerate(self.experts)}
        inputs |= experts
        later = frozenset(list(experts)[settings.min_experts :]) if settings.min_experts else frozenset()
        if settings.initialise == "kmeans":
            inputs["features"] = self._features(0)
        label = f"distillation {pairs} pairs seed {seed}"
        return WorkUnit("distillation", spec, inputs, execution, settings.resources, label, settings.workers, later)

    def _protocol(self) -> dict[str, Any]:
        return _dump(self.experiment.evaluation, "seeds", "image_models", "encode_batch")

    def _evaluation(self, role: str, judged: WorkUnit, seed: int, model: ModelSettings, label: str) -> WorkUnit:
        experiment = self.experiment
        return WorkUnit(
            "evaluation",
            {"protocol": self._protocol(), "model": self._model_spec(model), "seed": seed},
            {"dataset": self.dataset, role: judged, **self._model_inputs(model)},
            self._execution(encode_batch=experiment.evaluation.encode_batch),
            experiment.evaluation.resources,
            label,
        )

    def _full_evaluation(self, index: int, expert: WorkUnit) -> WorkUnit:
        return self._evaluation("expert", expert, 0, self.experiment.model, f"evaluation of expert {index}")

    def _judge(
        self, method: Method, pairs: int, seed: int, source: WorkUnit, evaluation_seeds: list[int] | None = None
    ) -> EvaluatedSet:
        experiment = self.experiment
        image = experiment.model.image
        if experiment.evaluation.image_models and image.weights not in ("timm", "random", "attributes"):
            raise ConfigError(
                "evaluation.image_models needs model.image.weights timm, random or attributes: "
                f"the file {image.weights} fits one model only"
            )
        evaluations = {}
        for name in [image.model, *experiment.evaluation.image_models]:
            model = self._model(None if name == image.model else name)
            evaluations[name] = [
                self._evaluation("pairs", source, s, model, f"evaluation of {source.label}, {name}, seed {s}")
                for s in evaluation_seeds or experiment.evaluation.seeds
            ]
        return EvaluatedSet(method, pairs, seed, source, evaluations)

    def _publication(self, chosen: EvaluatedSet, coresets: list[EvaluatedSet]) -> WorkUnit:
        experiment = self.experiment
        own = experiment.model.image.model
        inputs = {"dataset": self.dataset, "distillation": chosen.source, **self._model_inputs(experiment.model)}
        for row in [chosen, *coresets]:
            inputs |= {f"recall.{row.method}.{row.seed}.{i}": unit for i, unit in enumerate(row.evaluations[own])}
        return WorkUnit(
            "publication",
            {"name": experiment.name, "model": self._model_spec(experiment.model), "protocol": self._protocol()},
            inputs,
            self._execution(),
            label=f"publication {chosen.pairs} pairs seed {chosen.seed}",
        )
