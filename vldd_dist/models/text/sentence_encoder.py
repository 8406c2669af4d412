"""What the files of the library sentence-transformers say about an encoder: its pooling, and layers that come after it."""

import json
from pathlib import Path
from typing import Any

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models import libraries
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.identity import text_folder

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
# The library's word for a pooling -> ours.
OURS = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}


def trained_otherwise(settings: TextTowerSettings) -> list[str]:
    """A sentence for each way in which captions are embedded otherwise than when the encoder was trained. Empty if there are no
    such files on this machine: a run downloads only those that transformers reads."""
    sentences = []
    trained = _pooling(_read(settings, POOLING))
    if trained is not None and OURS.get(trained) != settings.pooling:
        sentences.append(
            f"{settings.model} was trained with {OURS.get(trained, trained)} pooling ({POOLING}), and embeds sentences worse "
            f"with another: model.text.pooling is {settings.pooling}"
        )
    modules = _read(settings, MODULES)
    types = [str(module.get("type")) for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    if any(name.endswith(".Dense") for name in types):
        sentences.append(
            f"model.text.model: {settings.model} was trained with a dense layer after the pooling ({MODULES}), which captions "
            "do not pass: their embeddings are those before it"
        )
    return sentences


def _read(settings: TextTowerSettings, name: str) -> Any:
    """A JSON file of the encoder; None if there is none here that can be read."""
    try:
        path = _path(settings, name)
        return None if path is None else json.loads(path.read_text())
    except (ConfigError, OSError, ValueError):
        # Only the library that wrote it needs it.
        return None


def _path(settings: TextTowerSettings, name: str) -> Path | None:
    if settings.model == tiny_clip.NAME:
        return None
    if folder := text_folder(settings):
        return folder / name
    cached_file = libraries.transformers().utils.hub.cached_file
    found = cached_file(settings.model, name, revision=settings.revision, local_files_only=True)
    return None if found is None else Path(found)


def _pooling(config: Any) -> str | None:
    """The library's word for the pooling; several are joined by +. None: the file does not say."""
    if not isinstance(config, dict):
        return None
    if isinstance(mode := config.get("pooling_mode"), str):
        return mode
    prefix = "pooling_mode_"
    chosen = [key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value is True]
    return "+".join(chosen) or None
