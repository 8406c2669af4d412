"""What building a dual encoder takes: the part of a unit's spec that names the model, and the units it reads."""

from typing import Any

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.model import NAMED_WEIGHTS, ModelSettings
from vldd_dist.pipeline.stage import Units
from vldd_dist.pipeline.work_unit import WorkUnit


def model_named(experiment: Experiment, image_model: str) -> ModelSettings:
    """The experiment's dual encoder with another image model; the experiment's own under its own name."""
    model = experiment.model
    if image_model == model.image.model:
        return model
    image = model.image.model_copy(update={"model": image_model, "model_args": {}})
    return model.model_copy(update={"image": image})


def model_inputs(graph: Units, model: ModelSettings) -> dict[str, WorkUnit]:
    """Units that hold caption embeddings and the image tower's starting weights."""
    inputs = {"embeddings": graph.unit("caption_embeddings")}
    if model.image.weights != "random":
        inputs["image_weights"] = graph.unit("image_weights", model.image.model)
    return inputs


def model_spec(model: ModelSettings) -> dict[str, Any]:
    """A weights file is replaced by "file": its content is in the id of the `image_weights` unit, and where it lies does not
    change the model."""
    spec = model.identity()
    if model.image.weights not in NAMED_WEIGHTS:
        spec["image"]["weights"] = "file"
    return spec
