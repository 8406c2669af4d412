"""What building a dual encoder takes: the part of a unit's spec that names the model, and the units it reads."""

from typing import Any

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import NAMED_WEIGHTS, ImageTowerSettings, ModelSettings
from vldd_dist.models.losses import Loss
from vldd_dist.pipeline.stage import Units
from vldd_dist.pipeline.work_unit import WorkUnit


def model_named(experiment: Experiment, image_model: str) -> ModelSettings:
    """The experiment's dual encoder with another image model; the experiment's own under its own name."""
    return experiment.model.model_copy(update={"image": experiment.image_tower(image_model)})


def expert_model(experiment: Experiment) -> ModelSettings:
    """The experiment's dual encoder as experts are trained: with their own loss where they have one."""
    loss = experiment.experts.loss or experiment.model.loss
    return on_real_pairs(experiment.model.model_copy(update={"loss": loss}))


def on_real_pairs(model: ModelSettings) -> ModelSettings:
    """As it is trained on real pairs: what its loss would learn of synthetic ones makes no other units of these."""
    loss: Loss = model.loss
    return model.model_copy(update={"loss": loss.of_real_pairs()})


def model_inputs(graph: Units, model: ModelSettings) -> dict[str, WorkUnit]:
    """Units that hold caption embeddings, the image tower's starting weights, and its features where it is frozen."""
    inputs = {"embeddings": graph.unit("caption_embeddings")}
    if model.image.weights != "random":
        inputs["image_weights"] = graph.unit("image_weights", model.image.model)
        # Random weights of a frozen tower are other ones for each expert.
        if model.has_features:
            inputs["image_features"] = graph.unit("image_features", model.image.model)
    return inputs


def tower_spec(image: ImageTowerSettings) -> dict[str, Any]:
    """What a frozen tower's features depend on beside its weights: fields of the image tower's section."""
    return image.model_dump(mode="json", include={"model", "model_args", "mean", "std"})


def model_spec(model: ModelSettings) -> dict[str, Any]:
    """A weights file is replaced by "file": its content is in the id of the `image_weights` unit, and where it lies does not
    change the model."""
    spec = model.identity()
    if model.image.weights not in NAMED_WEIGHTS:
        spec["image"]["weights"] = "file"
    return spec
