"""Reads a text encoder's configuration: which family it belongs to, and whether the description fits it.

No weights are read, so that a description can be refused before anything runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError, UnusableHere, message_of
from vldd_dist.models import libraries
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.identity import text_folder
from vldd_dist.models.text.poolings import POOLINGS, Family, Pooling
from vldd_dist.store.user_files.reachability import reaching

# transformers' `model_type`s of encoders whose states do not depend on padding. They number positions either from the id of the
# padding token on, or from zero.
FROM_PADDING = "camembert data2vec-text longformer luke mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl"
FROM_ZERO = (
    "albert bert big_bird deberta deberta-v2 distilbert electra ernie eurobert gte megatron-bert mobilebert modernbert "
    "nomic_bert rembert roformer squeezebert"
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(f"{FROM_ZERO} {FROM_PADDING}".split(), "bidirectional encoder"),
    **dict.fromkeys(["t5", "mt5", "umt5"], "T5"),
    **dict.fromkeys(["clip", "clip_text_model"], "CLIP"),
    **dict.fromkeys(["siglip", "siglip_text_model"], "SigLIP"),
}
ENCODERS = "a CLIP, SigLIP or T5 model, or an encoder like BERT, RoBERTa, DistilBERT, MPNet or DeBERTa"


@dataclass(frozen=True)
class TextArchitecture:
    """A text encoder and its pooling.

    Attributes:
        config: transformers' configuration of the text model, even if the description names a whole CLIP or SigLIP model.
        pooling: how the model's output becomes a vector.
        positions: the largest number of tokens of a caption; None: no limit.
    """

    config: Any
    pooling: Pooling
    positions: int | None

    @property
    def dim(self) -> int:
        """Size of the caption embeddings."""
        return int(getattr(self.config, self.pooling.size))


def find_architecture(settings: TextTowerSettings, *, ask_hub: bool) -> TextArchitecture | None:
    """The architecture that a description names, checked against the description. None for a model on a hub whose configuration
    cannot be read here.

    Args:
        ask_hub: whether to ask the hub; otherwise only earlier downloads are read.

    Raises:
        ConfigError: a folder has no readable configuration, or the reasons of `fit_architecture`.
    """
    try:
        config = read_config(settings, ask_hub=ask_hub)
    except (ConfigError, UnusableHere):
        if text_folder(settings) is None:
            return None
        raise
    return fit_architecture(settings, config)


# What the user may do where the hub can never be reached.
WITHOUT_HUB = ", or without a network name a folder as save_pretrained writes it, minilm or tiny-clip"


def read_config(settings: TextTowerSettings, *, ask_hub: bool) -> Any:
    """transformers' configuration of the model.

    Raises:
        ConfigError: there is none.
        StoreError: the hub cannot be reached at the moment.
    """
    if settings.model == tiny_clip.NAME:
        return tiny_clip.config()
    source = str(text_folder(settings) or settings.model)
    try:
        # By default transformers asks on the terminal whether to run the model's own Python.
        with reaching(f"model.text.model: {settings.model}", WITHOUT_HUB):
            return libraries.transformers().AutoConfig.from_pretrained(
                source, revision=settings.revision, local_files_only=not ask_hub, trust_remote_code=False
            )
    # A config.json with values that transformers does not expect can raise any of the last three.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise cannot_be_loaded(settings, error) from None


def find_snapshot(settings: TextTowerSettings) -> Path | None:
    """The local folder into which the hub's files are downloaded, whose name is the commit; None if the model is not on a hub.

    Raises:
        ConfigError: there is no such model.
        StoreError: the hub cannot be reached at the moment.
    """
    if settings.model == tiny_clip.NAME or text_folder(settings) is not None:
        return None
    try:
        with reaching(f"model.text.model: {settings.model}", WITHOUT_HUB):
            file = libraries.transformers().utils.hub.cached_file(settings.model, "config.json", revision=settings.revision)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded(settings, error) from None
    return None if file is None else Path(file).parent


def cannot_be_loaded(settings: TextTowerSettings, error: Exception) -> ConfigError:
    """The error for a model that transformers cannot load."""
    return ConfigError(
        f"model.text.model: {settings.model} cannot be loaded ({message_of(error)}): "
        "name a folder as save_pretrained writes it, a hub id that can be reached, minilm or tiny-clip"
    )


def fit_architecture(settings: TextTowerSettings, config: Any) -> TextArchitecture:
    """The architecture of a text model, from transformers' configuration of it or of the whole model that contains it.

    Raises:
        ConfigError: it is not a text encoder, it does not have the pooling, or it has fewer positions than `max_tokens`.
    """
    family = FAMILIES.get(config.model_type)
    if family is None or (family == "bidirectional encoder" and getattr(config, "is_decoder", False)):
        raise ConfigError(f"model.text.model: {settings.model} is {_what_it_is(config)}: name {ENCODERS}")
    fitting, text = POOLINGS[family], _text_part(config)
    if text.architectures == ["CLIPTextModel"]:
        fitting = {name: pooling for name, pooling in fitting.items() if name != "projected"}
    if settings.pooling not in fitting:
        which = family if len(fitting) == len(POOLINGS[family]) else f"{family} without a projection"
        raise ConfigError(
            f"model.text.pooling: {settings.pooling} is not for {settings.model} ({which}): choose {' or '.join(fitting)}"
        )
    positions = _positions(text)
    if positions is not None and settings.max_tokens > positions:
        raise ConfigError(
            f"model.text.max_tokens: {settings.max_tokens} is more than the {positions} positions of {settings.model}: lower it"
        )
    return TextArchitecture(text, fitting[settings.pooling], positions)


def _text_part(config: Any) -> Any:
    text = getattr(config, "text_config", None)
    if text is None:
        return config
    if config.model_type == "clip":
        # The projection is the whole model's: published text parts state transformers' default, which may be another size.
        text.projection_dim = config.projection_dim
    return text


def _positions(config: Any) -> int | None:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in FROM_PADDING.split():
        # The first position has the number after the padding token's id.
        positions -= config.pad_token_id + 1
    return positions


def _what_it_is(config: Any) -> str:
    modeling_auto = libraries.transformers().models.auto.modeling_auto
    kinds = {
        "a decoder of text": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "an image model": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    kind = next((kind for kind, types in kinds.items() if config.model_type in types), "not a supported text encoder")
    return f"{kind} ({config.model_type})"
