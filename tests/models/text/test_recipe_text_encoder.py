"""`build_text_encoder`: the encoder of a set's recipe, or an error."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from tests.test_readme import distilled_set
from vldd_dist import DistilledSet, build_text_encoder
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models.text.encoder import FrozenTextEncoder


def made_with(settings: TextTowerSettings) -> DistilledSet:
    shown = distilled_set()
    identity = FrozenTextEncoder(settings, torch.device("cpu")).identity
    shown.recipe = shown.recipe.model_copy(update={"text_encoder": identity})
    return shown


def saved_bert(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "star"]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(
        BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(folder)
    return str(folder)


def test_it_embeds_as_the_encoder_of_the_recipe() -> None:
    settings = TextTowerSettings(model="tiny-clip", pooling="eos", max_tokens=12, scale="sqrt_dim")
    captions = ["a red star", "two green circles on white"]
    expected = FrozenTextEncoder(settings, torch.device("cpu")).encode(captions, 2)
    assert torch.equal(build_text_encoder(made_with(settings)).encode(captions, 2), expected)


def test_a_local_encoder_is_found_at_another_place_and_another_one_is_refused(tmp_path: Path) -> None:
    shown = made_with(TextTowerSettings(model=saved_bert(tmp_path / "a" / "bert", 0)))
    moved = saved_bert(tmp_path / "moved", 0)
    assert build_text_encoder(shown, model=moved).encode(["a star"], 1).shape == (1, 8)
    with pytest.raises(ConfigError, match=r"is not the one that made the set's texts \(bert\): sha256 differs"):
        build_text_encoder(shown, model=saved_bert(tmp_path / "other", 1))
