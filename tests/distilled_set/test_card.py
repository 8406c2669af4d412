"""The card: a header that the hub reads, code that runs without changes, pairs that `datasets` loads from the folder."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, DatasetCardData

from tests.distilled_sets import RECIPE, distilled_set, save_unchecked, with_similarity
from vldd_dist import DistilledSet, build_towers, load_distilled
from vldd_dist.config.sections.model import LoraSettings
from vldd_dist.distilled_set.publishing import card
from vldd_dist.distilled_set.publishing.card import render_card
from vldd_dist.distilled_set.publishing.hub_header import licence_keys, size_category
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.errors import StoreError
from vldd_dist.models.image.backbone import create_backbone, public_weights

FACTS = {
    "data": {"source": "karpathy", "licence": "CC BY 4.0"},
    "card": {"name": "Flickr30K", "language": ["en"], "datasets": ["nlphuji/flickr30k"]},
}


def of_recipe(**changes: Any) -> DistilledSet:
    shown = distilled_set()
    shown.recipe, shown.facts = RECIPE.model_copy(update=changes), FACTS
    return shown


def test_the_hub_reads_the_header() -> None:
    card = DatasetCard(render_card(of_recipe()))
    assert isinstance(card.data, DatasetCardData)
    known = {"license", "language", "pretty_name", "source_datasets", "size_categories", "task_categories"}
    header = card.data.to_dict()
    assert {name: header[name] for name in known} == {
        "license": "cc-by-4.0",
        "language": ["en"],
        "pretty_name": "5 synthetic image-text pairs distilled from Flickr30K",
        "source_datasets": ["nlphuji/flickr30k"],
        "size_categories": ["n<1K"],
        "task_categories": ["image-to-text", "text-to-image"],
    }
    assert header["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "pairs/*.tar"}]}]
    # Unknown fields are left out.
    plain = yaml.safe_load(render_card(distilled_set()).split("---")[1])
    assert plain["license"] == "unknown"
    assert not {"language", "source_datasets"} & set(plain)


def test_the_card_states_the_original_data_in_the_set() -> None:
    shown = distilled_set()
    assert "start_images" not in render_card(shown)
    shown.start_images = shown.pixels()
    assert "If the pairs were initialised with real pairs, these are unchanged (resized) images" in render_card(shown)


def test_the_card_names_the_size_of_the_test_split() -> None:
    shown = of_recipe()
    assert "the test recall, in percent, of dual encoders" in render_card(shown)
    shown.facts = {"data": {"splits": {"test": {"images": 6, "captions": 30, "shards": 1}}}}
    card = render_card(shown)
    assert "the test recall, in percent on 6 images with 30 captions, of dual encoders" in card
    assert "(`prototypes`). With 6 test images, a student's TR@K changes in steps of 16.7 percentage points" in card


@pytest.mark.parametrize(
    ("licence", "keys"),
    [
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("research only (Flickr8k)", {"license": "other", "license_name": "research-only-flickr8k"}),
        ("☃", {"license": "other", "license_name": "unnamed"}),
    ],
)
def test_a_licence_is_an_identifier_of_the_hub_or_has_a_name(licence: str, keys: dict[str, str]) -> None:
    assert licence_keys(licence) == keys


@pytest.mark.parametrize(
    ("count", "category"), [(5, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K"), (10**7, "10M<n<100M"), (10**12, "n>1T")]
)
def test_size_categories_are_those_of_the_hub(count: int, category: str) -> None:
    assert size_category(count) == category


def test_datasets_loads_the_folder(tmp_path: Path) -> None:
    save(distilled_set(), str(tmp_path / "set"))
    loaded = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 5
    assert set(loaded["txt"]) == {"b"}
    assert loaded[0]["json"] == {"before": "a", "after": "b", "similarity": 0.5}
    for row, pixels in zip(loaded, distilled_set().pixels(), strict=True):
        assert np.array_equal(np.asarray(row["png"]), pixels.permute(1, 2, 0).numpy())


FROZEN = {"image_train": "head", "image_head": "linear", "text_head": "linear", "joint_dim": 16}
BACKBONE = create_backbone("test_nfnet", {}, pretrained=False, seed=7)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [({}, None), ({"image_weights": "in the set", **FROZEN}, BACKBONE.state_dict())],
    ids=["random", "frozen, in the set"],
)
def test_the_code_on_the_card_runs(
    changes: dict[str, Any], weights: dict[str, torch.Tensor] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    url, shown = str(tmp_path / "set"), of_recipe(**changes)
    shown.image_weights = weights
    save(shown, url)
    card = (tmp_path / "set" / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    # `load_dataset` does not take a file:// URL, which `vldd list` prints.
    places = (f"file://{url}", "URL OF THIS FOLDER"), (url, "PATH OF THIS FOLDER, OR OWNER/NAME ON THE HUB")
    assert len(code) == len(places)
    found: dict[str, Any] = {}
    for block, (place, words) in zip(code, places, strict=True):
        assert block.count(words) == 1
        exec(block.replace(words, place), found)
    assert len(found["losses"]) == RECIPE.epochs
    assert len(found["shown"]) == 5
    for name, value in (weights or {}).items():
        assert torch.equal(found["image_tower"].backbone.state_dict()[name], value)
    with torch.no_grad():
        features = found["image_tower"](shown.images)
    assert features.shape == (5, *found["text_tower"](shown.texts).shape[1:])
    assert ("`image_weights.safetensors` of this set" in card) == (weights is not None)


def test_weights_in_the_set_keep_their_precision(tmp_path: Path) -> None:
    """Half precision takes half the space. The tower of a student has the same values in single precision."""
    shown = of_recipe(image_weights="in the set", **FROZEN)
    shown.image_weights = {name: tensor.half() for name, tensor in BACKBONE.state_dict().items()}
    save(shown, str(tmp_path / "set"))
    loaded = load_distilled(str(tmp_path / "set"))
    assert loaded.image_weights is not None
    backbone = build_towers(loaded)[0].backbone.state_dict()
    for name, value in shown.image_weights.items():
        assert loaded.image_weights[name].dtype == value.dtype
        assert torch.equal(loaded.image_weights[name], value)
        assert torch.equal(backbone[name], value.float())


def test_weights_that_the_recipe_says_are_in_the_set_must_be_there(tmp_path: Path) -> None:
    save_unchecked(of_recipe(image_weights="in the set"), str(tmp_path / "set"))
    with pytest.raises(StoreError, match=r"lists no image_weights\.safetensors"):
        load_distilled(str(tmp_path / "set"))


def test_the_card_says_what_a_student_of_ones_own_must_be() -> None:
    """The default expression has a bar, which would end the cell of the table."""
    lora = LoraSettings(rank=3, alpha=8).model_dump()
    shown = of_recipe(image_model="vit_tiny_patch16_224", image_model_args={"depth": 3}, image_train="lora", lora=lora)
    adapters = r"alpha 8, dropout 0.0, rank 3, targets `.*\.attn\.(qkv\|proj)`"
    assert f"| timm vit_tiny_patch16_224 (depth 3), train lora ({adapters}), head " in render_card(shown)


def test_the_card_says_of_how_many_pairs_the_similarity_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = with_similarity({"kind": "full"})
    for largest, said in ((5, ""), (4, " of the first 4 pairs")):
        monkeypatch.setattr(card, "LARGEST", largest)
        assert f"The learned similarity of images (rows) and texts (columns){said}: blue is negative" in render_card(shown)
    assert "learned similarity of images" not in render_card(distilled_set())


def test_the_card_says_that_pairs_are_those_of_the_start() -> None:
    shown = of_recipe()
    shown.facts = {**FACTS, "outer_steps_to_best": 0}
    assert "| 0; the pairs are those from which the distillation started: no later ones were better (" in render_card(shown)


def test_public_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = of_recipe(image_weights="timm", public_weights=public_weights("nfnet_l0"), image_model="nfnet_l0")
    assert "public: timm nfnet_l0.ra2_in1k (https://huggingface.co/timm/nfnet_l0.ra2_in1k, licence " in render_card(shown)
    asked: list[tuple[str, bool]] = []

    def create(name: str, arguments: dict[str, Any], *, pretrained: bool, seed: int) -> torch.nn.Module:
        asked.append((name, pretrained))
        return create_backbone("test_nfnet", arguments, pretrained=False, seed=7)

    for module in ("recipe_towers", "dual_encoder"):
        monkeypatch.setattr(f"vldd_dist.models.{module}.create_backbone", create)
    image_tower, _ = build_towers(shown)
    assert asked == [("nfnet_l0.ra2_in1k", True), ("nfnet_l0", False)]
    assert torch.equal(image_tower.backbone.state_dict()["stem.conv1.weight"], BACKBONE.state_dict()["stem.conv1.weight"])
