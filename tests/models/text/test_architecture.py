"""Reading a text encoder's configuration, and the errors for unsuitable ones. No weights are read."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import PoolingName, TextTowerSettings
from vldd_dist.cost_model.io_model import COMMON_TEXT_DIM, text_dim
from vldd_dist.errors import ConfigError
from vldd_dist.models.text.architecture import FAMILIES, find_architecture, fit_architecture
from vldd_dist.models.text.poolings import POOLINGS
from vldd_dist.pipeline.graphs.experiment import Graph

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
ENCODER = {**SIZES, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT_PART = {**SIZES, "max_position_embeddings": 40, "eos_token_id": 49}


def folder(path: Path, model_type: str, **changes: Any) -> Path:
    """A folder with only a configuration."""
    from transformers import AutoConfig

    AutoConfig.for_model(model_type, **changes).save_pretrained(path)
    return path


def settings(model: Path | str, pooling: str, **changes: Any) -> TextTowerSettings:
    return TextTowerSettings(model=str(model), pooling=pooling, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model_type", "config", "pooling", "dim"),
    [
        ("bert", ENCODER, "cls", 32),
        ("roberta", ENCODER, "mean", 32),
        ("distilbert", {"dim": 24, "n_heads": 4, "n_layers": 1}, "mean", 24),
        ("t5", {"d_model": 16}, "mean", 16),
        ("clip_text_model", {**TEXT_PART, "projection_dim": 8}, "projected", 8),
        ("clip_text_model", {**TEXT_PART, "projection_dim": 8}, "eos", 32),
        # As in published models, the projection of the whole model applies, because the text part states a default.
        ("clip", {"text_config": {**TEXT_PART, "projection_dim": 512}, "projection_dim": 8}, "projected", 8),
        ("clip", {"text_config": TEXT_PART, "projection_dim": 8}, "eos", 32),
        ("siglip_text_model", {**TEXT_PART, "projection_size": 8}, "projected", 8),
        ("siglip", {"text_config": TEXT_PART}, "projected", 32),
    ],
)
def test_the_size_of_the_embeddings(tmp_path: Path, model_type: str, config: dict[str, Any], pooling: str, dim: int) -> None:
    assert text_dim(settings(folder(tmp_path, model_type, **config), pooling), None) == (dim, True)


def test_the_size_of_encoders_that_are_not_folders() -> None:
    assert text_dim(settings("minilm", "mean"), None) == (384, True)
    assert text_dim(settings("tiny-clip", "projected"), None) == (128, True)
    assert text_dim(settings("nobody/no-such-model", "mean"), None) == (COMMON_TEXT_DIM, False)


@pytest.mark.parametrize(
    ("model_type", "config", "changes", "sentence"),
    [
        ("clip", {}, {"pooling": "cls"}, r"model.text.pooling: cls is not for \S+ \(CLIP\): choose projected or eos"),
        ("clip_text_model", {}, {"pooling": "mean"}, r"mean is not for \S+ \(CLIP\): choose projected or eos"),
        (
            "clip_text_model",
            {"architectures": ["CLIPTextModel"]},
            {"pooling": "projected"},
            r"projected is not for \S+ \(CLIP without a projection\): choose eos",
        ),
        ("siglip", {}, {"pooling": "eos"}, r"eos is not for \S+ \(SigLIP\): choose projected"),
        ("t5", {}, {"pooling": "cls"}, r"cls is not for \S+ \(T5\): choose mean"),
        ("bert", ENCODER, {"pooling": "projected"}, r"projected is not for \S+ \(bidirectional encoder\): choose cls or mean"),
        ("gpt2", {}, {"pooling": "mean"}, r"model.text.model: \S+ is a decoder of text \(gpt2\): name a CLIP, SigLIP or T5"),
        ("bert", {**ENCODER, "is_decoder": True}, {"pooling": "cls"}, r"model.text.model: \S+ is a decoder of text \(bert\)"),
        ("vit", {}, {"pooling": "cls"}, r"model.text.model: \S+ is an image model \(vit\): name a CLIP"),
        (
            "clip_vision_model",
            {},
            {"pooling": "projected"},
            r"is not a supported text encoder \(clip_vision_model\): name a CLIP",
        ),
        ("wav2vec2", {}, {"pooling": "mean"}, r"is not a supported text encoder \(wav2vec2\)"),
        (
            "clip",
            {},
            {"pooling": "eos", "max_tokens": 78},
            r"model.text.max_tokens: 78 is more than the 77 positions of \S+: lower it",
        ),
        ("bert", ENCODER, {"pooling": "cls", "max_tokens": 41}, r"41 is more than the 40 positions"),
        ("roberta", ENCODER, {"pooling": "cls", "max_tokens": 40}, r"40 is more than the 39 positions"),
    ],
)
def test_unsuitable_encoders_are_one_sentence_errors(
    tmp_path: Path, model_type: str, config: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        find_architecture(settings(folder(tmp_path, model_type, **config), **changes), ask_hub=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model_type": 3}', json.dumps({"model_type": "no-such-type"})])
def test_a_folder_without_a_usable_configuration_is_a_one_sentence_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"^model.text.model: \S+ cannot be loaded") as caught:
        find_architecture(settings(tmp_path, "cls"), ask_hub=False)
    assert "\n" not in str(caught.value)


def test_a_run_and_its_plan_refuse_before_anything_runs(tmp_path: Path) -> None:
    model = folder(tmp_path, "clip")
    overrides = [f"model.text.model={model}", "model.text.pooling=cls", "model.image.weights=random"]
    with pytest.raises(ConfigError, match=r"model.text.pooling: cls is not for"):
        Graph(load_experiment("jobs/presets/scenes.yaml", overrides))


def test_every_pooling_of_the_description_is_of_some_family() -> None:
    assert {name for fitting in POOLINGS.values() for name in fitting} == set(get_args(PoolingName))
    assert set(FAMILIES.values()) == set(POOLINGS)


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family == "bidirectional encoder"])
def test_each_encoder_has_states_that_do_not_depend_on_padding_and_the_positions_it_says(model_type: str) -> None:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(model_type, **{**ENCODER, "embedding_size": 32, "pad_token_id": 1, "bos_token_id": 0})
    found = fit_architecture(settings("some", "mean", max_tokens=30), config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
    assert found.positions is not None
    longest = torch.full((1, found.positions), 5)
    padded = torch.tensor([[0, 5, 6, 2, 1, 1]])
    with torch.inference_mode():
        model(input_ids=longest, attention_mask=torch.ones_like(longest))
        states = model(input_ids=padded, attention_mask=(padded != 1).long()).last_hidden_state[:, :4]
        alone = model(input_ids=padded[:, :4], attention_mask=torch.ones(1, 4, dtype=torch.long)).last_hidden_state
    assert states.shape[2] == found.dim
    torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)
