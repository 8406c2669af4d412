"""The text encoder of a distilled set's recipe, for captions of one's own. Needs transformers."""

from os import PathLike, fspath

import torch

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.errors import ConfigError
from vldd_dist.models.text.encoder import FrozenTextEncoder


def build_text_encoder(
    distilled: DistilledSet, device: str = "cpu", model: str | PathLike[str] | None = None
) -> FrozenTextEncoder:
    """The encoder that made the set's texts. `encode(captions, batch_size)` returns embeddings (n, D) float32, which the text
    tower takes.

    Args:
        model: where the encoder is, if it was a local folder when the set was made; the recipe has only the folder's name.

    Raises:
        ConfigError: the encoder cannot be loaded, or is not the one that made the set's texts.
    """
    made_with = distilled.recipe.text_encoder
    settings = {name: made_with[name] for name in TextTowerSettings.model_fields if name in made_with}
    if model is not None:
        settings["model"] = fspath(model)
    encoder = FrozenTextEncoder(TextTowerSettings.model_validate(settings), torch.device(device))
    # A local folder may have another name here.
    names = {"model"} if model is not None else set()
    compared = (made_with.keys() | encoder.identity.keys()) - names
    differing = sorted(name for name in compared if made_with.get(name) != encoder.identity.get(name))
    if differing:
        raise ConfigError(
            f"the text encoder {settings['model']} is not the one that made the set's texts ({made_with.get('model')}): "
            f"{', '.join(differing)} differs; give the folder of that encoder as `model`"
        )
    return encoder
