"""What a text encoder of a hub was read from: two commits that agree in it have the same encoder."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from vldd_dist.models.text.identity import ADAPTER, WEIGHTS
from vldd_dist.store.user_files.digests import sha256_of_local

# The files that transformers reads besides the weights and the vocabulary, which has other names in each family. Chat templates
# are left out: captions are no chats.
OTHER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    ADAPTER,
    "adapter_model.safetensors",
)
# Stands for a file of weights that transformers has taken from another place, such as the pull request of a conversion.
WEIGHTS_ELSEWHERE = "weights that are not in the commit"


def hub_files(snapshot: Path, tokenizer: Any, model: nn.Module) -> dict[str, str]:
    """Name -> sha256 of the files that the tokenizer and the model were read from. Other files may be in the snapshot, for
    example if the whole repository was downloaded.

    Args:
        snapshot: the folder with the files of one commit.
        model: in fp32. Its parameters are hashed under `WEIGHTS_ELSEWHERE` if the commit has no safetensors.
    """
    weights = _weights(snapshot)
    names = {*OTHER_FILES, *tokenizer.vocab_files_names.values(), *weights}
    files = {name: sha256_of_local(snapshot / name) for name in sorted(names) if (snapshot / name).is_file()}
    return files if weights else files | {WEIGHTS_ELSEWHERE: _sha256_of_parameters(model)}


def _weights(snapshot: Path) -> list[str]:
    """The names of the files of weights; none if the commit has no safetensors."""
    if (snapshot / WEIGHTS).is_file():
        return [WEIGHTS]
    index = snapshot / f"{WEIGHTS}.index.json"
    return list(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else []


def _sha256_of_parameters(model: nn.Module) -> str:
    """The same for other names and another order of the parameters, which differ between versions of transformers."""
    digests = sorted(sha256(parameter.detach().cpu().numpy().tobytes()).hexdigest() for parameter in model.parameters())
    return sha256("".join(digests).encode()).hexdigest()
