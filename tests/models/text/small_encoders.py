"""A small text encoder in a folder, and a distilled set made with an encoder."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from tests.distilled_sets import distilled_set
from vldd_dist import DistilledSet
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.models.text.encoder import FrozenTextEncoder


def made_with(settings: TextTowerSettings) -> DistilledSet:
    """A set whose recipe names this encoder."""
    shown = distilled_set()
    identity = FrozenTextEncoder(settings, torch.device("cpu")).identity
    shown.recipe = shown.recipe.model_copy(update={"text_encoder": identity})
    return shown


def saved_bert(folder: Path, seed: int) -> str:
    """Save a small encoder with random weights and its tokenizer; returns the folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "star"]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(
        BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(folder)
    return str(folder)
