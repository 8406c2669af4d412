"""Checks, before anything runs, that the models of a description can be built. No weights are loaded."""

import os
from functools import cache

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import NAMED_WEIGHTS, HeadSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.student.kinks import refuse_kinks
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.backbone import (
    check_backbone_name,
    check_forward,
    check_weights_fit,
    create_backbone,
    make_trainable,
    refuse_dropout,
)
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.architecture import find_architecture
from vldd_dist.models.text.identity import text_folder
from vldd_dist.pipeline.stages.shared.model_units import model_named
from vldd_dist.store.user_files.opening import local_path


def check_models(experiment: Experiment) -> None:
    """Check the text encoder, and the dual encoder with each image model on which students are evaluated.

    Raises:
        ConfigError: a model cannot be built; the message names the key and says what to change.
        DataError: a file of weights on this machine is of another model.
    """
    _refuse_unused_revision(experiment.model.text)
    own, text_dim = experiment.model.image.model, known_text_dim(experiment.model.text)
    for name in experiment.image_models():
        try:
            check_backbone_name(name)
            # All fields, because those that only say how a model runs, such as `grad_checkpointing`, may not suit it either.
            described = model_named(experiment, name).model_dump_json()
            _check_dual_encoder(described, text_dim, experiment.data.image_size)
        except ConfigError as error:
            raise error if name == own else ConfigError(f"evaluation.image_models: with {name}, {error}") from None
    _refuse_kinks(experiment)
    _refuse_dropout(experiment)
    _refuse_scalars(experiment)


def _refuse_unused_revision(text: TextTowerSettings) -> None:
    """Refuse a revision that does not change the captions' embeddings, but would change the ids of all units with a model."""
    if text.revision is not None and (text.model == tiny_clip.NAME or text_folder(text) is not None):
        raise ConfigError(f"model.text.revision: only a model on a hub has one, and {text.model} is not on a hub: remove it")


# The next two functions are cached, because the many experiments of a study use few different models.
@cache
def known_text_dim(settings: TextTowerSettings) -> int | None:
    """Size of the caption embeddings. None for a model on a hub that this machine cannot reach; the workers, which may be able
    to reach it, check the model again."""
    architecture = find_architecture(settings, ask_hub=False) or find_architecture(settings, ask_hub=True)
    return architecture.dim if architecture else None


@cache
def _check_dual_encoder(described: str, text_dim: int | None, image_size: int) -> None:
    settings = ModelSettings.model_validate_json(described)
    image, text = settings.image.model_copy(update={"weights": "random"}), settings.text
    if text_dim is None:
        # The size is unknown: use a head that accepts any size.
        text_dim, text = 1, text.model_copy(update={"head": HeadSettings(kind="linear"), "train": "head"})
    with torch.device("meta"):
        model = build(settings.model_copy(update={"image": image, "text": text}), text_dim, None, 0)
    check_forward(model.image_backbone, image.model, image_size)
    _check_weights(settings)


def _check_weights(settings: ModelSettings) -> None:
    """Compare the names and shapes in a local file of weights with the image backbone. The unit that copies the weights checks
    a remote file, and says what is wrong with one that is missing or not of safetensors."""
    image = settings.image
    path = None if image.weights in NAMED_WEIGHTS else local_path(image.weights)
    if path is None or not os.path.isfile(path):
        return
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return
    with torch.device("meta"):
        backbone = create_backbone(image.model, image.model_args, pretrained=False, seed=0)
    check_weights_fit(backbone, shapes, image.model)


def _refuse_kinks(experiment: Experiment) -> None:
    """Refuse a student that the distillation would refuse at its start, after the experts have been trained."""
    smooth = any(phase.objective.wants_smooth_student() for phase in experiment.distill.of_phases())
    if smooth and not experiment.model.image.freezes_backbone:
        refuse_kinks(_backbone(experiment), "image_backbone")


def _refuse_dropout(experiment: Experiment) -> None:
    """Refuse a backbone that the experts or the distillation would refuse at their start on several ranks."""
    image = experiment.model.image
    if image.freezes_backbone:
        return
    for key, section in (("experts", experiment.experts), ("distill", experiment.distill)):
        if section.workers > 1:
            try:
                with torch.device("meta"):
                    refuse_dropout(make_trainable(_backbone(experiment), image))
            except ConfigError as error:
                raise ConfigError(f"{key}.workers: {error}") from None


def _refuse_scalars(experiment: Experiment) -> None:
    """Refuse models with a zero-dimensional parameter (such as the gains of dm_nfnet) where DeepSpeed shards them: it fails."""
    for key, section in (("experts", experiment.experts), ("distill", experiment.distill)):
        if section.workers > 1 and section.sharding.startswith("zero"):
            scalars = [name for name, parameter in _backbone(experiment).named_parameters() if parameter.dim() == 0]
            if scalars:
                raise ConfigError(
                    f"{key}.sharding: {section.sharding}: DeepSpeed cannot shard a parameter without dimensions, such as "
                    f"{scalars[0]} of {experiment.model.image.model}: set {key}.sharding to fsdp or none"
                )


def _backbone(experiment: Experiment) -> nn.Module:
    """The image backbone on the meta device, which allocates no memory for the weights."""
    image = experiment.model.image
    with torch.device("meta"):
        return create_backbone(image.model, image.model_args, pretrained=False, seed=0)
