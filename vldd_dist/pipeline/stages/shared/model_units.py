"""What a unit needs to build a dual encoder: the part of its spec that describes the model, and the input units. What a plan
needs: the model's trace."""

from typing import Any

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import NAMED_WEIGHTS, ImageTowerSettings, ModelSettings
from vldd_dist.cost_model.memory_trace import MemoryTrace, TraceOf
from vldd_dist.models.losses import Loss
from vldd_dist.models.text.identity import text_folder
from vldd_dist.pipeline.stage import UnitGraph
from vldd_dist.pipeline.work_unit import WorkUnit


def trace_of(experiment: Experiment, traces: TraceOf) -> MemoryTrace:
    """The trace of the experiment's dual encoder on its images."""
    return traces(experiment.model, experiment.data.image_size)


def model_named(experiment: Experiment, image_model: str) -> ModelSettings:
    """The experiment's dual encoder with this image model in place of its own, which may be given too."""
    return experiment.model.model_copy(update={"image": experiment.image_tower(image_model)})


def expert_model(experiment: Experiment) -> ModelSettings:
    """The experiment's dual encoder as experts use it: with `experts.loss` if that is set."""
    loss = experiment.experts.loss or experiment.model.loss
    return on_real_pairs(experiment.model.model_copy(update={"loss": loss}))


def on_real_pairs(model: ModelSettings) -> ModelSettings:
    """The model for training on real pairs: its loss without what it learns of synthetic pairs, so that those settings do not
    change the ids of units that use real pairs."""
    loss: Loss = model.loss
    return model.model_copy(update={"loss": loss.of_real_pairs()})


def model_input_units(graph: UnitGraph, model: ModelSettings) -> dict[str, WorkUnit]:
    """The units that hold the caption embeddings, the image tower's starting weights and, if its backbone is frozen, its
    features."""
    inputs = {"embeddings": graph.unit("caption_embeddings")}
    if model.image.weights != "random":
        inputs["image_weights"] = graph.unit("image_weights", model.image.model)
        # Features of a frozen backbone with random weights are not stored: it is for tests.
        if model.has_features:
            inputs["image_features"] = graph.unit("image_features", model.image.model)
    return inputs


def tower_spec(image: ImageTowerSettings) -> dict[str, Any]:
    """The fields of the image tower's section on which a frozen backbone's features depend, apart from its weights."""
    return image.model_dump(mode="json", include={"model", "model_args", "mean", "std"})


def model_spec(model: ModelSettings) -> dict[str, Any]:
    """The model's part of a spec. The path of a weights file is replaced by "file", and that of a text encoder by the folder's
    name, because paths do not change the model; the contents are part of the ids of the `image_weights` and the
    `caption_embeddings` units."""
    spec = model.identity()
    if model.image.weights not in NAMED_WEIGHTS:
        spec["image"]["weights"] = "file"
    if model.text.model != "minilm" and (folder := text_folder(model.text)):
        spec["text"]["model"] = folder.name
    return spec


def model_execution(model: ModelSettings) -> dict[str, Any]:
    """What a unit's execution says of its model: how the image tower runs, and the loss with all its settings."""
    return model.image.execution() | {"loss": model.loss.model_dump(mode="json")}
