"""The files of a distilled set for users and other tools: shards, card and metadata, read by those tools."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.distilled_sets import distilled_set, with_similarity
from vldd_dist import load_distilled
from vldd_dist.distilled_set.publishing import presentation
from vldd_dist.distilled_set.publishing.card import render_card
from vldd_dist.distilled_set.publishing.presentation import preview_shards
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(distilled_set(), str(tmp_path / "set"))
    return tmp_path / "set"


def test_plain_webdataset_reads_the_preview_shards(folder: Path) -> None:
    samples = list(webdataset.WebDataset(str(folder / "pairs/000000.tar"), shardshuffle=False).decode("rgb8"))
    pixels = distilled_set().pixels()
    assert [sample["__key__"] for sample in samples] == [f"{index:06d}" for index in range(5)]
    for sample, expected in zip(samples, pixels, strict=True):
        assert np.array_equal(sample["png"], expected.permute(1, 2, 0).numpy())
        assert (sample["txt"], sample["json"]) == ("b", {"before": "a", "after": "b", "similarity": 0.5})


def test_many_pairs_make_several_shards_and_always_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presentation, "SHARD_PAIRS", 2)
    pairs = distilled_set()
    shards = preview_shards(pairs.pixels(), pairs.captions)
    assert list(shards) == ["pairs/000000.tar", "pairs/000001.tar", "pairs/000002.tar"] == presentation.shard_names(5)
    assert shards == preview_shards(pairs.pixels(), pairs.captions)


def test_mlcroissant_accepts_the_metadata_and_reads_the_records(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    described = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    # A date is recommended, but left out on purpose.
    assert [line for line in described.metadata.ctx.issues.warnings if "datePublished" not in line] == []
    assert "not standard" not in caplog.text
    captions = list(described.records("captions"))
    assert captions == [{"captions/before": b"a", "captions/after": b"b", "captions/similarity": 0.5}] * 5
    images = {bytes(record["images-of-pairs/name"]).decode(): record["images-of-pairs/image"] for record in
                described.records("images-of-pairs")}  # fmt: skip
    assert sorted(images) == [f"{index:06d}.png" for index in range(5)]
    assert np.array_equal(np.asarray(images["000003.png"]), distilled_set().pixels()[3].permute(1, 2, 0).numpy())


def test_the_metadata_names_every_object_but_itself_and_the_manifest(folder: Path) -> None:
    described = json.loads((folder / "croissant.json").read_text())
    named = {entry["@id"]: entry["sha256"] for entry in described["distribution"] if entry["@type"] == "cr:FileObject"}
    manifest = json.loads((folder / "manifest.json").read_text())["objects"]
    assert named == {name: info["sha256"] for name, info in manifest.items() if name != "croissant.json"}


def test_the_preview_is_an_image_of_the_pairs(folder: Path) -> None:
    store = Store(str(folder))
    preview = Image.open(io.BytesIO(store.read("preview.png")))
    # Five images of 16 px in a row, each enlarged six times.
    assert preview.size == (5 * 96 + 4 * 4, 96)
    shown = np.asarray(preview)[3, 3]
    assert np.array_equal(shown, distilled_set().pixels()[0, :, 0, 0].numpy())


@pytest.mark.parametrize(
    ("similarity", "costs"),
    [
        # M (2 r + 1) and M^2 numbers of four bytes.
        ({"kind": "low_rank", "rank": 2, "alpha": 3.0}, 5 * (2 * 2 + 1) * 4),
        ({"kind": "full"}, 5 * 5 * 4),
    ],
)
def test_a_learned_similarity_counts_towards_the_size_and_is_on_the_card(
    similarity: dict[str, Any], costs: int, tmp_path: Path
) -> None:
    shown = with_similarity(similarity)
    save(shown, str(tmp_path / "set"))
    loaded, plain = load_distilled(str(tmp_path / "set")), distilled_set()
    assert sum(loaded.sizes.values()) - sum(plain.sizes.values()) == costs
    assert loaded.facts["sizes"] == loaded.sizes == shown.sizes
    assert plain.sizes == {"images": 5 * 3 * 16 * 16 * 4, "texts": 5 * 8 * 4}
    card = (tmp_path / "set/README.md").read_text()
    assert f"{sum(shown.sizes.values()):,} bytes: images 15,360, texts 160" in card
    assert f"similarity ({similarity['kind']}, " in card
    assert "![similarity](similarity.png)" in card
    assert "similarity" not in render_card(plain)
    # Five squares on each side: red on the diagonal, where the similarity starts at 1, and white elsewhere.
    drawn = np.asarray(Image.open(tmp_path / "set/similarity.png"))
    side = len(drawn) // 5
    assert drawn.shape == (5 * side, 5 * side, 3)
    corners = drawn[::side, ::side].astype(int)
    for row in range(5):
        for column in range(5):
            red, green, blue = corners[row, column]
            assert (red - blue > 100) if row == column else (red == green == blue == 255)
