"""The frozen text encoder: pooling, scale, precision, identity."""

import shutil
from pathlib import Path

import pytest
import torch

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.events import Progress, UnitReport
from vldd_dist.models.text import identity
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.models.text.identity import text_identity

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "star", "left", "of", "large", "small"]
CAPTIONS = ["a red circle", "a small blue star left of a large red circle", "star", ""]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, saved as users save theirs."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        BertModel(config).save_pretrained(folder)
    return folder


def settings(model: Path, **changes: object) -> TextTowerSettings:
    return TextTowerSettings(model=str(model), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_one_caption_at_a_time(bert: Path, pooling: str, side: str, tmp_path: Path) -> None:
    """The embeddings equal those of the model without padding, also if the tokenizer was saved to pad on the left."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert, padding_side=side).save_pretrained(tmp_path)
    encoder = FrozenTextEncoder(settings(tmp_path, pooling=pooling), CPU)
    found = encoder.encode(CAPTIONS, 3)
    assert found.dtype == torch.float32
    assert found.shape == (len(CAPTIONS), 16)
    for caption, vector in zip(CAPTIONS, found, strict=True):
        with torch.no_grad():
            states = encoder.model(**encoder.tokenizer([caption], return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, states[0] if pooling == "cls" else states.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_tokenizer_without_a_padding_token_is_refused(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(bert).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^model.text.model: the tokenizer of .* has no padding token: give the folder one"):
        FrozenTextEncoder(settings(tmp_path), CPU)


def test_captions_are_cut(bert: Path) -> None:
    encoder = FrozenTextEncoder(settings(bert, max_tokens=4), CPU)
    cut, same = encoder.encode(["a red circle", "a red star"], 2)
    torch.testing.assert_close(cut, same)
    assert encoder.are_cut(["a red circle", "a red", "a", "a red star of a"]) == [True, False, False, True]
    assert encoder.are_cut([]) == []


def test_embeddings_are_single_precision_whatever_the_file_holds(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(bert).half().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    encoder = FrozenTextEncoder(settings(tmp_path), CPU)
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    torch.testing.assert_close(encoder.encode(CAPTIONS, 4), encoder.encode(CAPTIONS, 1), rtol=1e-5, atol=1e-5)


def test_identity_follows_the_weights_and_what_is_made_of_them(bert: Path) -> None:
    mean = settings(bert, pooling="mean")
    assert FrozenTextEncoder(mean, CPU).identity == text_identity(mean)
    assert text_identity(mean) != text_identity(settings(bert, pooling="cls"))
    assert text_identity(mean)["sha256"] != text_identity(TextTowerSettings(model="minilm"))["sha256"]


@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "tokenizer_config.json"])
def test_identity_follows_the_tokenizer_and_the_configuration(name: str, bert: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(bert, tmp_path / bert.name)
    assert text_identity(settings(copied)) == text_identity(settings(bert))
    with (copied / name).open("a") as file:
        file.write("\n")
    assert text_identity(settings(copied)) != text_identity(settings(bert))


def test_a_folder_with_an_adapter_is_refused(bert: Path, tmp_path: Path) -> None:
    """transformers would load it on top of the weights, which alone are in the identity."""
    copied = shutil.copytree(bert, tmp_path / bert.name)
    (copied / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has an adapter \(adapter_config\.json\): save the weights with the adapter merged"):
        text_identity(settings(copied))


def test_progress_is_reported(bert: Path) -> None:
    events: list[UnitReport] = []
    FrozenTextEncoder(settings(bert), CPU).encode(CAPTIONS, 3, events.append)
    assert events == [Progress(done=3, total=4), Progress(done=4, total=4)]


def test_the_packaged_encoder() -> None:
    encoder = FrozenTextEncoder(TextTowerSettings(model="minilm", pooling="mean", scale="sqrt_dim"), CPU)
    together, alone = encoder.encode(CAPTIONS, 4), encoder.encode(CAPTIONS, 1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.full((4,), 384**0.5))


def test_changed_packaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match=r"model.text.model: the weights in .* have sha256"):
        text_identity(TextTowerSettings(model="minilm"))


def test_a_missing_text_encoder_is_a_one_sentence_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.text.model: no-such-model cannot be loaded .* minilm or tiny-clip"):
        FrozenTextEncoder(TextTowerSettings(model="no-such-model"), CPU)
    with pytest.raises(ConfigError, match=r"has no model.safetensors: convert the weights"):
        FrozenTextEncoder(settings(tmp_path), CPU)
