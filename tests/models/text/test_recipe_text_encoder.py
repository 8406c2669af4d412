"""`build_text_encoder`: the encoder of a set's recipe, or an error."""

from pathlib import Path

import pytest
import torch

from tests.models.text.small_encoders import made_with, saved_bert
from vldd_dist import build_text_encoder
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models.text.encoder import FrozenTextEncoder


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
