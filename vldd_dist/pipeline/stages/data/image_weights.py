"""The image tower's starting weights, copied into the store so that workers need neither a hub nor the user's disk."""

from typing import Any

import torch
from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.sections.pretrain import PretrainSettings
from vldd_dist.data.scenes import GENERATOR_VERSION
from vldd_dist.experts.pretraining import pretrain_on_attributes
from vldd_dist.models.image.backbone import create_backbone, load_backbone, public_weights
from vldd_dist.models.image.identity import weights_identity
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.shared.model_units import model_named
from vldd_dist.pipeline.work_unit import WorkUnit


class ImageWeightsFacts(Facts):
    tensors: Count
    public: dict[str, str] = Field(
        {}, description="what timm said of its public weights that were copied; empty for others and in older units"
    )


def unit(graph: UnitGraph, image_model: str) -> WorkUnit:
    """The starting weights of the timm model of this name."""
    experiment = graph.experiment
    image = model_named(experiment, image_model).image
    spec: dict[str, Any] = {"model": image.model, "model_args": image.model_args}
    resources = experiment.embeddings.resources
    if image.weights == "attributes":
        spec |= {
            "attributes": experiment.pretrain.identity(),
            "generator": GENERATOR_VERSION,
            "image_size": experiment.data.image_size,
            "mean": list(image.mean),
            "std": list(image.std),
            "seed": experiment.seed,
        }
        resources = experiment.pretrain.resources
    else:
        spec |= weights_identity(image)
    execution, label = {"weights": image.weights}, f"image weights {image.model}"
    return STAGE.new(experiment, spec, execution=execution, label=label, resources=resources)


def run(context: StageContext) -> ImageWeightsFacts:
    """Pretrain on attributes, download the weights from timm, or read them from a file."""
    spec, public = context.spec, dict[str, str]()
    if "attributes" in spec:
        weights = pretrain_on_attributes(
            create_backbone(spec["model"], spec["model_args"], pretrained=False, seed=spec["seed"]),
            PretrainSettings.model_validate(spec["attributes"]),
            image_size=spec["image_size"],
            mean=torch.tensor(spec["mean"]),
            std=torch.tensor(spec["std"]),
            seed=spec["seed"],
            device=context.device,
            report=context.report,
        )
    elif context.execution["weights"] == "timm":
        weights = create_backbone(spec["model"], spec["model_args"], pretrained=True, seed=0).state_dict()
        public = public_weights(spec["model"])
    else:
        weights = tensors.read_file(context.execution["weights"], spec["sha256"])
        # Here, because otherwise the first expert reports it, after the data have been prepared.
        load_backbone(create_backbone(spec["model"], spec["model_args"], pretrained=False, seed=0), weights, spec["model"])
    context.writer.put("weights.safetensors", tensors.encode(weights))
    return ImageWeightsFacts(tensors=len(weights), public=public)


STAGE = StageSpec(
    kind="image_weights",
    version=1,
    title="image weights",
    section="pretrain",
    result=ImageWeightsFacts,
    unit=unit,
    run=run,
    priority=1,
    lower_for_memory="pretrain.batch_size",
)
