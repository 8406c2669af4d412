"""The built-in CLIP text model: equal weights in every process, and a vocabulary for the captions of built-in scenes."""

from hashlib import sha256

import pytest
import torch

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.data.scenes import attribute_vector, draw_scenes
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.models.text.identity import text_identity


def digest() -> str:
    """A digest of all weights."""
    weights = sorted(tiny_clip.load("CLIPTextModelWithProjection").named_parameters())
    return sha256(b"".join(name.encode() + weight.detach().numpy().tobytes() for name, weight in weights)).hexdigest()


def settings(pooling: str = "projected", **changes: object) -> TextTowerSettings:
    return TextTowerSettings(model="tiny-clip", pooling=pooling, **changes)  # type: ignore[arg-type]


def captions(count: int = 300) -> list[str]:
    return [caption for scene in draw_scenes(count, 0, 8) for caption in scene.captions]


def test_the_weights_do_not_depend_on_the_generator_which_stays() -> None:
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        digests.add(digest())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert len(digests) == 1


def test_the_weights_are_those_of_this_version() -> None:
    """Every process has the same. A change of the weights or of the vocabulary makes other embeddings: raise VERSION, and enter
    the new ones here."""
    vectors = FrozenTextEncoder(settings(), torch.device("cpu")).encode(["a small red star", "Zebra, 9!"], 2)
    assert tiny_clip.VERSION == 2
    torch.testing.assert_close(
        vectors[:, :3], torch.tensor([[-0.0022, -1.5349, -0.3497], [-0.4935, -1.2218, -0.1290]]), rtol=1e-3, atol=1e-3
    )


def test_both_poolings_are_of_one_model() -> None:
    texts = captions(20)
    projected, eos = (FrozenTextEncoder(settings(pooling), torch.device("cpu")) for pooling in ("projected", "eos"))
    with torch.no_grad():
        wanted = projected.model.text_projection(eos.encode(texts, 64))  # type: ignore[operator]
    torch.testing.assert_close(projected.encode(texts, 64), wanted, rtol=1e-4, atol=1e-4)


def test_captions_of_scenes_are_whole_words_and_fit_the_default_number_of_tokens() -> None:
    tokenizer = tiny_clip.tokenizer()
    tokens = {token for caption in captions() for token in tokenizer.tokenize(caption)}
    assert {token for token in tokens if not token.startswith("Ġ")} == {","}
    assert "Ġ" not in tokens
    assert max(len(tokenizer(caption)["input_ids"]) for caption in captions()) <= TextTowerSettings().max_tokens


def test_other_text_is_read_by_bytes() -> None:
    tokenizer = tiny_clip.tokenizer()
    assert tokenizer.unk_token is None
    for text in ("zebra", "é", "漢字", "\x00", "a\ttab"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) > 3


def test_captions_are_told_apart() -> None:
    """Also captions that describe other scenes with the same words."""
    texts = ["a red star left of a blue ring", "a blue ring left of a red star", "a red star left of a blue cross"]
    vectors = FrozenTextEncoder(settings(scale="sqrt_dim"), torch.device("cpu")).encode(texts, 3)
    cosine = vectors @ vectors.T / vectors.shape[1]
    assert cosine.fill_diagonal_(0).max() < 0.99


@pytest.mark.parametrize("pooling", ["projected", "eos"])
def test_a_linear_map_reads_shapes_colours_and_relations_of_other_scenes(pooling: str) -> None:
    """So the embeddings have the information that a text head has to learn."""
    scenes = draw_scenes(800, 1, 8)
    encoder = FrozenTextEncoder(settings(pooling, scale="sqrt_dim"), torch.device("cpu"))
    vectors = encoder.encode([caption for scene in scenes for caption in scene.captions], 128)
    inputs = torch.cat([vectors, torch.ones(len(vectors), 1)], dim=1)
    targets = torch.stack([attribute_vector(scene) for scene in scenes for _ in scene.captions])
    learned, other = slice(0, 3000), slice(3000, None)
    read = inputs[other] @ torch.linalg.lstsq(inputs[learned], targets[learned]).solution
    explained = 1 - (read - targets[other]).square().sum() / (targets[other] - targets[learned].mean(dim=0)).square().sum()
    assert explained > 0.8


@pytest.mark.parametrize("change", [{"pooling": "eos"}, {"max_tokens": 20}, {"scale": "sqrt_dim"}])
def test_its_identity_is_its_version_and_what_is_made_of_its_output(change: dict[str, str]) -> None:
    identity = text_identity(settings())
    assert identity == {**tiny_clip.IDENTITY, "pooling": "projected", "max_tokens": 30, "scale": "none"}
    assert text_identity(settings(**change)) != identity
