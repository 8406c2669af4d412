"""Publishing: writes a distillation's best pairs as a self-contained distilled set, with its recalls on the card."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.keys import published_folder
from vldd_dist.artifacts.manifests import from_json
from vldd_dist.config.base import choose
from vldd_dist.data.facts import CaptionEmbeddingsFacts
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest, NearestCaptions, Recipe
from vldd_dist.distilled_set.publishing.folders import write_folder
from vldd_dist.distilled_set.publishing.write import files_of
from vldd_dist.distilled_set.reading import verify
from vldd_dist.errors import StoreError
from vldd_dist.method_names import DISTILLED
from vldd_dist.models.image.backbone import public_weights
from vldd_dist.pipeline.context import StageContext, read_rows, read_tensors
from vldd_dist.pipeline.stage import Key, StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.image_weights import ImageWeightsFacts
from vldd_dist.pipeline.stages.evaluation import EvaluationFacts
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.stages.shared.model_units import model_execution, model_input_units, model_spec
from vldd_dist.pipeline.stages.shared.phases import EARLIER
from vldd_dist.pipeline.stages.shared.protocol import protocol_of
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.store.objects import DamagedObject
from vldd_dist.store.store import MissingObject, Store

AGREED = ".agreed"


class PublicationFacts(Facts):
    folder: str = Field(description="folder of the distilled set in this store")
    size_bytes: Count = Field(description="bytes of the tensors on which a student is trained: the size of the set")
    digest: str = Field(description="sha256 of pairs.safetensors; if there are several files, the sha256 of their sha256s")


def unit(graph: UnitGraph, pairs: int, seed: int) -> WorkUnit:
    """The publication of the distillation of M pairs with this seed, with the recalls of the coresets of the same size."""
    experiment = graph.experiment
    inputs = {
        "dataset": graph.unit("dataset"),
        "distillation": graph.unit("distillation", pairs, seed),
        **model_input_units(graph, experiment.model),
    }
    for number in range(len(experiment.distill.phases) - 1):
        inputs[f"{EARLIER}.{number}"] = graph.unit("distillation", pairs, seed, number)
    for chosen in evaluated_sets(experiment):
        if chosen.pairs == pairs and (chosen.method != DISTILLED or chosen.seed == seed):
            for number, key in enumerate(chosen.evaluations(experiment.model.image.model)):
                inputs[f"recall.{chosen.method}.{chosen.seed}.{number}"] = graph.unit("evaluation", *key)
    spec = {
        "name": experiment.name,
        "model": model_spec(experiment.model),
        "protocol": protocol_of(experiment, experiment.model.image.model),
        "card": experiment.data.card.model_dump(mode="json"),
        "resize": experiment.data.resize,
        "licence": experiment.data.licence,
    }
    objective = experiment.distill.of_phases()[-1].objective
    execution = {"objective": objective.model_dump(mode="json"), **model_execution(experiment.model)}
    return STAGE.new(experiment, spec, inputs, execution, f"publication {pairs} pairs seed {seed}")


def wanted(graph: UnitGraph) -> Iterable[Key]:
    """Each distillation."""
    return graph.experiment.distill.sets()


def publish(context: StageContext) -> PublicationFacts:
    """Write `distilled/NAME-Mpairs-seedS-ID/` and return its folder, size and digest. ID is that of the publication: if the
    same pairs are evaluated again, for example with more seeds, the card differs and a new folder is written.

    All attempts write to the same folder, but may compute bytes that differ, for example in the last bits of a caption's
    similarity. So the attempts agree on the bytes before any of them writes there. If an earlier attempt left a complete set
    of the same pairs, that set is kept.

    Raises:
        StoreError: the folder contains a set of other pairs.
    """
    distillation = context.reader("distillation")
    pairs, start = read_rows(distillation, "pairs"), read_rows(distillation, "start")
    shared = read_tensors(distillation, "shared.safetensors")
    objective = choose(OBJECTIVES, context.execution["objective"])
    model = context.build_model(0)
    distilled = DistilledSet(
        rows=pairs,
        shared=shared,
        learned=objective.learned_numbers(shared) | context.model_settings.loss.learned_numbers(shared),
        start_images=model.denormalise(start["images"].to(context.device)).cpu(),
        captions=_nearest_captions(context, start["texts"], pairs["texts"]),
        image_weights=_weights_in_the_set(context),
        recipe=_recipe(context),
        facts=facts_of(context, distillation.facts_as(DistillationFacts), objective.name),
    )
    seed = distillation.manifest.spec["seed"]
    folder = published_folder(context.spec["name"], len(pairs["images"]), seed, context.order.id)
    target = Store(context.store.url_of(folder))
    digest = _digest_of_existing(target, distilled) or _write_agreed(context, target, files_of(distilled))
    return PublicationFacts(folder=folder, size_bytes=sum(distilled.sizes.values()), digest=digest)


def _digest_of_existing(target: Store, distilled: DistilledSet) -> str | None:
    """The digest of a complete set of the same pairs that is already there. None if there is no set or a damaged one, which is
    then written again.

    Raises:
        StoreError: a set of other pairs is there.
    """
    try:
        manifest = verify(target.url)
        existing = DistilledSet.load(target.url).rows
    except (MissingObject, DamagedObject):
        return None
    same_names = set(existing) == set(distilled.rows)
    if not same_names or not all(torch.equal(existing[name], rows) for name, rows in distilled.rows.items()):
        raise _of_other_pairs(target)
    return manifest.digest(target.url_of(MANIFEST))


def _of_other_pairs(target: Store) -> StoreError:
    return StoreError(f"{target.url}: contains a distilled set of other pairs: remove or rename it, and start again")


def _write_agreed(context: StageContext, target: Store, files: dict[str, bytes]) -> str:
    # The suffix is needed because `manifest.json` in a unit's folder commits the unit.
    agreed = context.writer.agree({f"{name}{AGREED}": data for name, data in files.items()})
    files = {name.removesuffix(AGREED): data for name, data in agreed.items()}
    manifest = files.pop(MANIFEST)
    # A set that is there is damaged, and replaced.
    if not write_folder(target, files.items(), manifest, replace=True):
        raise _of_other_pairs(target)
    return from_json(DistilledManifest, manifest, target.url).digest(target.url_of(MANIFEST))


def _nearest_captions(context: StageContext, before: torch.Tensor, after: torch.Tensor) -> list[NearestCaptions]:
    """The training captions nearest to the texts, which are learned as vectors, before and after the distillation."""
    found = context.embeddings.nearest(context.dataset, "train", before, after)
    return [
        NearestCaptions(before=caption_before, after=caption_after, similarity=cosine)
        for (caption_before, _), (caption_after, cosine) in zip(*found, strict=True)
    ]


def _weights_in_the_set(context: StageContext) -> dict[str, torch.Tensor] | None:
    """The image tower's starting weights, if others cannot get them elsewhere: None for timm's and for random weights."""
    if context.model_settings.image.weights in ("timm", "random"):
        return None
    return read_tensors(context.reader("image_weights"), "weights.safetensors")


def _public_weights(context: StageContext) -> dict[str, str]:
    """What timm says of the image tower's starting weights, if they are its own: when they were copied to the store, because
    another version of timm may load others for the same name."""
    image = context.model_settings.image
    if image.weights != "timm":
        return {}
    return context.reader("image_weights").facts_as(ImageWeightsFacts).public or public_weights(image.model)


def most_chosen(rates: Sequence[float]) -> float:
    """The learning rate that most seeds chose on the validation split; of equally many, the lowest."""
    return max(sorted(rates), key=rates.count)


def _recipe(context: StageContext) -> Recipe:
    model, protocol = context.model_settings, context.spec["protocol"]
    students = [context.reader(role).facts_as(EvaluationFacts) for role in context.roles(f"recall.{DISTILLED}.")]
    rates = [student.learning_rate for student in students if student.learning_rate is not None]
    return Recipe(
        image_model=model.image.model,
        image_model_args=model.image.model_args,
        image_weights=model.image.weights if model.image.weights in ("timm", "random") else "in the set",
        public_weights=_public_weights(context),
        image_train=model.image.train,
        lora=model.image.lora.model_dump(mode="json") if model.image.train == "lora" else None,
        mean=model.image.mean,
        std=model.image.std,
        image_size=context.dataset.image_size,
        text_encoder=context.reader("embeddings").facts_as(CaptionEmbeddingsFacts).encoder,
        image_head=model.image.head.kind,
        image_dropout=model.image.head.dropout,
        text_train=model.text.train,
        text_head=model.text.head.kind,
        text_dropout=model.text.head.dropout,
        joint_dim=model.joint_dim,
        loss=model.loss.model_dump(mode="json"),
        epochs=protocol["epochs"],
        batch_size=protocol["batch_size"],
        learning_rate=most_chosen(rates),
        momentum=protocol["momentum"],
        weight_decay=protocol["weight_decay"],
    )


def facts_of(context: StageContext, distillation: DistillationFacts, objective: str) -> dict[str, Any]:
    """Facts for the card: the test recalls of this set and of the coresets of its size, one per seed; data; provenance."""
    recalls: dict[str, list[dict[str, float]]] = {}
    for role in context.roles("recall."):
        # recall.LABEL.SEED.NUMBER; a label may contain dots.
        label = role.removeprefix("recall.").rsplit(".", 2)[0]
        recalls.setdefault(label, []).append(context.reader(role).facts_as(EvaluationFacts).test.model_dump())
    earlier = [context.reader(role).facts_as(DistillationFacts) for role in context.roles(f"{EARLIER}.")]
    return {
        # The unit of the data may have been made by a run with another licence in its description.
        "data": context.dataset.facts.model_dump() | {name: context.spec[name] for name in ("resize", "licence")},
        "card": context.spec["card"],
        "recalls": recalls,
        "objective": objective,
        "start": distillation.start,
        # Each phase starts from the best pairs of the one before it.
        "outer_steps_to_best": distillation.best_step + sum(phase.best_step for phase in earlier),
        "best_validation": distillation.best_validation,
        "distillation_unit": context.order.inputs["distillation"][1],
    }


STAGE = StageSpec(
    kind="publication",
    version=10,
    title="publications",
    result=PublicationFacts,
    unit=unit,
    run=publish,
    priority=8,
    wanted=wanted,
    milestone="publications",
    lower_for_memory="distill.pairs",
)
