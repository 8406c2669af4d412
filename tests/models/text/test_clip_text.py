"""Text parts of CLIP, SigLIP and T5: from folders that hold the text model or the whole one, as save_pretrained writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.encoder import FrozenTextEncoder

CPU = torch.device("cpu")
CAPTIONS = ["a red circle", "a small blue star left of a large red circle", "star", ""]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**SIZES, "image_size": 8, "patch_size": 4}


def settings(model: Path | str, pooling: str, **changes: Any) -> TextTowerSettings:
    return TextTowerSettings(model=str(model), pooling=pooling, **changes)  # type: ignore[arg-type]


def text_config(**changes: Any) -> dict[str, Any]:
    """The configuration of a small text model with the vocabulary of the built-in model."""
    end = tiny_clip.config().eos_token_id
    return {**SIZES, "vocab_size": end + 1, "eos_token_id": end, "max_position_embeddings": 40, **changes}


def saved(model: Any, path: Path) -> Any:
    model.eval().save_pretrained(path)
    tiny_clip.tokenizer().save_pretrained(path)
    return model


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    path = tmp_path_factory.mktemp("text-only")
    saved(seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**text_config(projection_dim=8)))), path)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP whose text part states another projection size than the whole model, as in published models."""
    from transformers import CLIPConfig, CLIPModel

    path = tmp_path_factory.mktemp("whole")
    config = CLIPConfig(text_config=text_config(projection_dim=512), vision_config=VISION, projection_dim=8)
    saved(seeded(lambda: CLIPModel(config)), path)
    described = json.loads((path / "config.json").read_text())
    described["text_config"]["projection_dim"] = 512
    (path / "config.json").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize("pooling", ["projected", "eos"])
def test_a_text_model_one_caption_at_a_time(text_only: Path, pooling: str) -> None:
    """The embeddings equal those of transformers' own model without padding."""
    from transformers import CLIPTextModelWithProjection

    encoder = FrozenTextEncoder(settings(text_only, pooling), CPU)
    found = encoder.encode(CAPTIONS, 3)
    assert found.shape == (4, 8 if pooling == "projected" else 16)
    model = CLIPTextModelWithProjection.from_pretrained(text_only).eval()
    for caption, vector in zip(CAPTIONS, found, strict=True):
        with torch.no_grad():
            output = model(**encoder.tokenizer([caption], return_tensors="pt"))
        # Without padding the end-of-text token is the last one.
        wanted = output.text_embeds[0] if pooling == "projected" else output.last_hidden_state[0, -1]
        torch.testing.assert_close(vector, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["projected", "eos"])
def test_of_a_whole_model_the_text_part_is_used(whole: Path, pooling: str) -> None:
    from transformers import CLIPModel

    encoder = FrozenTextEncoder(settings(whole, pooling), CPU)
    assert not any("vision" in name or "visual" in name for name, _ in encoder.model.named_parameters())
    model = CLIPModel.from_pretrained(whole).eval()
    tokens = encoder.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model.text_model(**tokens).pooler_output
        wanted = model.text_projection(wanted) if pooling == "projected" else wanted
    torch.testing.assert_close(encoder.encode(CAPTIONS, 4), wanted, rtol=1e-4, atol=1e-5)


def test_a_tower_can_be_trained_on_the_embeddings(text_only: Path) -> None:
    found = FrozenTextEncoder(settings(text_only, "projected"), CPU).encode(CAPTIONS, 3)
    assert not found.requires_grad
    tower = torch.nn.Linear(8, 2)
    for part in found.split(2):
        tower(part).sum().backward()
    assert tower.weight.grad is not None
    found.div_(2)


@pytest.mark.parametrize(("pooling", "dim"), [("projected", 8), ("eos", 16)])
def test_no_captions_have_embeddings_of_the_same_size(whole: Path, text_only: Path, pooling: str, dim: int) -> None:
    for model in (whole, text_only):
        assert FrozenTextEncoder(settings(model, pooling), CPU).encode([], 3).shape == (0, dim)


def test_cut_captions_keep_their_end_of_text(text_only: Path) -> None:
    encoder = FrozenTextEncoder(settings(text_only, "projected", max_tokens=5), CPU)
    cut, same, other = encoder.encode(["a red circle left of a star", "a red circle", "a red star"], 3)
    torch.testing.assert_close(cut, same)
    assert not torch.allclose(cut, other, rtol=1e-3, atol=1e-3)


def test_weights_that_are_missing_are_named_and_not_drawn(text_only: Path, whole: Path, tmp_path: Path) -> None:
    """The configuration promises a projection that the file lacks."""
    for source in (text_only, whole):
        for file in source.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        weights = load_file(source / "model.safetensors")
        save_file({name: w for name, w in weights.items() if "text_projection" not in name}, tmp_path / "model.safetensors")
        with pytest.raises(
            ConfigError, match=r"lacks text_projection.weight \(one of 1 missing\), which model.text.pooling: projected needs"
        ):
            FrozenTextEncoder(settings(tmp_path, "projected"), CPU)
        assert FrozenTextEncoder(settings(tmp_path, "eos"), CPU).encode(["a"], 1).shape == (1, 16)


def test_weights_of_another_size_are_a_one_sentence_error(text_only: Path, tmp_path: Path) -> None:
    for file in text_only.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"projection_dim": 9}))
    with pytest.raises(ConfigError, match=r"^model.text.model: \S+ cannot be loaded") as caught:
        FrozenTextEncoder(settings(tmp_path, "projected"), CPU)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_another_end_of_text_is_refused(text_only: Path, tmp_path: Path) -> None:
    for file in text_only.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"eos_token_id": 7}))
    with pytest.raises(ConfigError, match=r"ends captions with token 30\d, its configuration says 7"):
        FrozenTextEncoder(settings(tmp_path, "eos"), CPU)
    # In old configurations the id of the end of text is 2, which stands for the largest token id.
    (tmp_path / "config.json").write_text(json.dumps(described | {"eos_token_id": 2}))
    found, wanted = (FrozenTextEncoder(settings(model, "eos"), CPU).encode(CAPTIONS, 4) for model in (tmp_path, text_only))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("whole_model", [True, False])
def test_siglip_attends_to_padding(tmp_path: Path, whole_model: bool) -> None:
    """As with SigLIP's own processor, all positions are used, without a mask."""
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipTextModel

    config = text_config(projection_size=8, max_position_embeddings=32)
    if whole_model:
        model = saved(seeded(lambda: SiglipModel(SiglipConfig(text_config=config, vision_config=VISION))), tmp_path).text_model
    else:
        model = saved(seeded(lambda: SiglipTextModel(SiglipTextConfig(**config))), tmp_path)
    encoder = FrozenTextEncoder(settings(tmp_path, "projected"), CPU)
    ids = tiny_clip.tokenizer()(CAPTIONS, padding="max_length", max_length=32, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model(input_ids=ids).pooler_output
    torch.testing.assert_close(encoder.encode(CAPTIONS, 4), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode(CAPTIONS, 1), wanted, rtol=1e-4, atol=1e-5)
    assert encoder.encode([], 4).shape == (0, 8)


def test_of_t5_only_the_encoder_is_loaded(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel, T5Model

    config = T5Config(vocab_size=400, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    saved(seeded(lambda: T5Model(config)), tmp_path)
    encoder = FrozenTextEncoder(settings(tmp_path, "mean"), CPU)
    assert isinstance(encoder.model, T5EncoderModel)
    found = encoder.encode(CAPTIONS, 4)
    assert found.shape == (4, 16)
    torch.testing.assert_close(found, encoder.encode(CAPTIONS, 1), rtol=1e-4, atol=1e-5)
