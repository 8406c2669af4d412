"""The text encoder of a distilled set's recipe, for captions of one's own. Needs transformers."""

import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import torch
from pydantic import ValidationError

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.strict_model import first_error


def build_text_encoder(
    distilled: DistilledSet, device: str = "cpu", model: str | PathLike[str] | None = None
) -> FrozenTextEncoder:
    """The encoder that made the set's texts. `encode(captions, batch_size)` returns embeddings (n, D) float32, which the text
    tower takes.

    Args:
        model: where the encoder is, if it was a local folder when the set was made; the recipe has only the folder's name.

    Raises:
        ConfigError: the encoder cannot be loaded, or is not the one that made the set's texts.
        DataError: the recipe names no encoder, or has settings that no encoder has.
        StoreError: the hub with the encoder cannot be reached at the moment.
    """
    made_with = distilled.recipe.text_encoder
    settings = _settings_of(made_with, None if model is None else fspath(model))
    encoder = FrozenTextEncoder(settings, torch.device(device), _commit_of(made_with) if model is None else None)
    # The recipe's commit is the one that was loaded; recipes of older sets have none. A folder may have another name here.
    names = {"commit"} if model is None else {"commit", "model"}
    compared = (made_with.keys() | encoder.identity.keys()) - names
    differing = sorted(name for name in compared if made_with.get(name) != encoder.identity.get(name))
    if differing:
        raise ConfigError(
            f"the text encoder {settings.model} is not the one that made the set's texts ({made_with.get('model')}): "
            f"{', '.join(differing)} differs; give the folder of that encoder as `model`"
        )
    return encoder


def _settings_of(made_with: Mapping[str, Any], model: str | None) -> TextTowerSettings:
    """The encoder's settings; its `model` is the given one, or else that of the recipe.

    Raises:
        DataError: the recipe names no encoder, or has settings that no encoder has.
    """
    settings = {name: made_with[name] for name in TextTowerSettings.model_fields if name in made_with}
    if model is not None:
        settings["model"] = model
    elif not _is_hub_id(settings.get("model")):
        # The set may be made by others: a path could be of any file here, and without a name the default would be downloaded.
        raise DataError(
            f"the set's recipe: text_encoder.model: {settings.get('model')!r} is not the name of a model: if you have the "
            "encoder, give its folder as `model`"
        )
    try:
        return TextTowerSettings.model_validate(settings)
    except ValidationError as error:
        raise DataError(f"the set's recipe: {first_error(error, 'text_encoder')}: no encoder has this") from None


def _commit_of(made_with: Mapping[str, Any]) -> str | None:
    """The commit of an encoder on a hub; None if the recipe names none. Raises DataError if it is no commit: the set may be
    made by others."""
    commit = made_with.get("commit")
    if commit is None or (isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit)):
        return commit
    raise DataError(
        f"the set's recipe: text_encoder.commit: {commit!r} is not a commit: if you have the encoder, give its folder as "
        "`model`"
    )


def _is_hub_id(name: Any) -> bool:
    """Whether this is NAME or OWNER/NAME, as models on a hub and the built-in ones are called, and not a path."""
    # Comes with transformers.
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not isinstance(name, str):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
