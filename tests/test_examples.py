"""The notebooks in examples/ run on a set that the test makes, and are committed without outputs."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from tests.data.sample_files import jpeg
from tests.distilled_sets import RECIPE
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.data.images import to_tensor
from vldd_dist.data.scenes import draw_scenes
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.recall_metrics import with_mean

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
PAIRS = 6
PHOTOGRAPHS = 60


def scenes_set() -> DistilledSet:
    """A set of real scenes instead of distilled ones, with a learned similarity at its starting values, in two phases."""
    encoder = FrozenTextEncoder(TextTowerSettings(model="tiny-clip", pooling="projected"), torch.device("cpu"))
    scenes = draw_scenes(PAIRS, 0, 32, 0)
    pixels = torch.stack([to_tensor(scene.image) for scene in scenes])
    captions = [scene.captions[0] for scene in scenes]
    loss = WeightedBCE(similarity={"kind": "low_rank", "rank": 2})
    return DistilledSet(
        rows={"images": (pixels / 255 - 0.5) / 0.25, "texts": encoder.encode(captions, batch_size=PAIRS)}
        | {"phase": torch.arange(PAIRS) % 2}
        | {name: learned.start for name, learned in loss.learned_rows(range(PAIRS), PAIRS).items()},
        recipe=RECIPE.model_copy(
            update={"image_size": 32, "text_encoder": encoder.identity, "loss": loss.model_dump(mode="json")}
        ),
        captions=[NearestCaptions(before=caption, after=caption, similarity=1.0) for caption in captions],
        learned={"inner_lr_image": 0.1},
        start_images=pixels,
        facts={"recalls": {"distilled": [with_mean((50.0,) * 6)]}},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("sets") / "scenes")
    save(scenes_set(), folder)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count] == [], "clear all outputs"
    given = {"VLDD_SET": saved, "VLDD_SOURCE": json.dumps({"name": "scenes"}), "VLDD_IMAGES": "3", "OMP_NUM_THREADS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    shown = {
        "look-into-a-set": (2, [f"{PAIRS} pairs, images (3, 32, 32)", "test_nfnet", "mean recall 50.0 %"]),
        "train-on-a-set": (
            1,
            ["3 test images", "CLIPVisionModelWithProjection with", "6 real pairs, 6 epochs", "distilled  ", "random real "],
        ),
    }
    assert pictures == shown[path.stem][0]
    assert [words for words in shown[path.stem][1] if words not in texts] == []


def test_real_pairs_of_a_source_without_splits(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test images are those that `vldd run` would take from the training images, and unreadable samples are left out."""
    for number in range(PHOTOGRAPHS):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg((4 * number, 0, 0)))
        (tmp_path / f"{number}.txt").write_text(f"photo {number}")
    (tmp_path / "7.txt").write_text("")
    source = {"name": "folder", "path": str(tmp_path)}
    for name, value in {"VLDD_SET": saved, "VLDD_SOURCE": json.dumps(source)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOKS[-1], as_version=4)
    found: dict[str, Any] = {}
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][:2]:
        exec(cell.source, found)
    names = {split: {sample.key for sample in found["samples_of"](split)} for split in ("train", "val", "test")}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == PHOTOGRAPHS - 1
    assert 0 < len(names["test"]) == len(found["test_images"]) < len(found["train_images"]) == len(names["train"])
