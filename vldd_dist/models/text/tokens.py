"""Tokenizers of text encoders, and the number of tokens of captions."""

from typing import Any

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models import libraries
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.identity import text_folder

# Captions are tokenised in parts of this number, so that the tokens of all are never in memory together.
CAPTIONS_AT_ONCE = 1000


def load_tokenizer(settings: TextTowerSettings, *, ask_hub: bool) -> Any:
    """The tokenizer of a text encoder.

    Args:
        ask_hub: whether to ask the hub; otherwise only earlier downloads are read.

    Raises:
        ConfigError: `minilm` is not installed.
        OSError, ValueError, RuntimeError: it cannot be read.
    """
    if settings.model == tiny_clip.NAME:
        return tiny_clip.tokenizer()
    source = str(text_folder(settings) or settings.model)
    return libraries.transformers().AutoTokenizer.from_pretrained(
        source, revision=settings.revision, local_files_only=not ask_hub, trust_remote_code=False
    )


def tokens_here(settings: TextTowerSettings, captions: list[str]) -> list[int] | None:
    """`count_tokens`, without asking a hub; None if the tokenizer cannot be read on this machine."""
    try:
        tokenizer = load_tokenizer(settings, ask_hub=False)
    except (ConfigError, OSError, ValueError, RuntimeError):
        return None
    return count_tokens(tokenizer, captions)


def count_tokens(tokenizer: Any, captions: list[str]) -> list[int]:
    """The number of tokens of each caption, with start and end tokens, before it is cut."""
    counts: list[int] = []
    for first in range(0, len(captions), CAPTIONS_AT_ONCE):
        # Not verbose: transformers would warn of each that is longer than the encoder's positions.
        tokens = tokenizer(captions[first : first + CAPTIONS_AT_ONCE], return_attention_mask=False, verbose=False)
        counts += map(len, tokens["input_ids"])
    return counts
