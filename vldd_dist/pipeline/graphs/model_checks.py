"""Whether the models of a description can be made: refused before anything runs, without a weight."""

import json
from functools import cache

import torch
from torch import nn

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.model import HeadSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.student.kinks import refuse_kinks
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.backbone import check_backbone_name, check_image_size, create_backbone
from vldd_dist.models.text.architecture import find_architecture
from vldd_dist.pipeline.model_units import model_named


def check_models(experiment: Experiment) -> None:
    """The text encoder, and the dual encoder with each image model that students are evaluated on.

    Raises:
        ConfigError: with the key and the mend.
    """
    own, text_dim = experiment.model.image.model, _text_dim(experiment.model.text)
    for name in experiment.image_models():
        try:
            check_backbone_name(name)
            described = json.dumps(model_named(experiment, name).identity(), sort_keys=True)
            _check_dual_encoder(described, text_dim, experiment.data.image_size)
        except ConfigError as error:
            raise error if name == own else ConfigError(f"evaluation.image_models: with {name}, {error}") from None
    _refuse_kinks(experiment)
    _refuse_scalars(experiment)


# These two are remembered, because a study has many descriptions of few models.
@cache
def _text_dim(settings: TextTowerSettings) -> int | None:
    """Size of the caption embeddings. None for a model of a hub that cannot be reached from here: the workers, which may reach
    it, check it again."""
    found = find_architecture(settings, ask_hub=False) or find_architecture(settings, ask_hub=True)
    return found.dim if found else None


@cache
def _check_dual_encoder(described: str, text_dim: int | None, image_size: int) -> None:
    settings = ModelSettings.model_validate_json(described)
    image, text = settings.image.model_copy(update={"weights": "random"}), settings.text
    if text_dim is None:
        # A head that takes any size.
        text_dim, text = 1, text.model_copy(update={"head": HeadSettings(kind="linear"), "train": "head"})
    with torch.device("meta"):
        model = build(settings.model_copy(update={"image": image, "text": text}), text_dim, None, 0)
    check_image_size(model.image_backbone, image.model, image_size)


def _refuse_kinks(experiment: Experiment) -> None:
    """Before experts are trained for a distillation that would refuse the student when it starts."""
    smooth = any(phase.objective.wants_smooth_student() for phase in experiment.distill.of_phases())
    if smooth and experiment.model.image.train in ("full", "lora"):
        refuse_kinks(_backbone(experiment), "image_backbone")


def _refuse_scalars(experiment: Experiment) -> None:
    """On several ranks DeepSpeed fails where a parameter has no dimensions, as the gains of dm_nfnet."""
    for key, section in (("experts", experiment.experts), ("distill", experiment.distill)):
        if section.workers > 1 and section.sharding.startswith("zero"):
            scalars = [name for name, parameter in _backbone(experiment).named_parameters() if parameter.dim() == 0]
            if scalars:
                raise ConfigError(
                    f"{key}.sharding: {section.sharding}: DeepSpeed cannot cut a parameter without dimensions, as "
                    f"{scalars[0]} of {experiment.model.image.model}: set {key}.sharding to fsdp or none"
                )


def _backbone(experiment: Experiment) -> nn.Module:
    """Without memory for its weights."""
    image = experiment.model.image
    with torch.device("meta"):
        return create_backbone(image.model, image.model_args, pretrained=False, seed=0)
