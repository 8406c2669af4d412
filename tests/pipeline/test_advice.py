"""Notes on settings that are allowed but probably not meant."""

from pathlib import Path

import pytest

from tests.data.sample_files import pair
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.pipeline.advice import advice_on
from vldd_dist.planner.plan import plan
from vldd_dist.store.store import Store

VIT = ["model.image.model=vit_tiny_patch16_224", "model.image.weights=timm"]
HALF = ["model.image.mean=[0.5, 0.5, 0.5]", "model.image.std=[0.5, 0.5, 0.5]"]


@pytest.mark.parametrize(
    ("overrides", "noted"),
    [
        (VIT, ["vit_tiny_patch16_224 was pretrained with mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5 (model.image.mean, .std): "]),
        ([*VIT, *HALF], []),
        ([*VIT[:1], "model.image.weights=random"], []),
        (
            [*VIT[:1], "model.image.weights=x/vit.safetensors"],
            [
                "timm's own weights of vit_tiny_patch16_224 were trained with mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5, and "
                "the description has others: if x/vit.safetensors has those weights, set model.image.mean and .std to them"
            ],
        ),
        ([*VIT[:1], *HALF, "model.image.weights=x/vit.safetensors"], []),
        (
            [*VIT, *HALF, "evaluation.image_models=[resnet18]"],
            ["resnet18 was pretrained with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 (evaluation.image_models"],
        ),
    ],
)
def test_a_normalisation_that_the_weights_were_not_trained_with_is_noted(overrides: list[str], noted: list[str]) -> None:
    notes = advice_on(load_experiment("scenes", overrides))
    assert len(notes) == len(noted)
    assert all(note.startswith(start) for note, start in zip(notes, noted, strict=True))


def test_fractions_of_splits_that_the_source_has_are_noted() -> None:
    notes = advice_on(load_experiment("scenes", ["data.split.val=0.3"]))
    assert notes == ["data.split.val (0.3) has no effect: the source has a val split"]
    assert advice_on(load_experiment("scenes", ["data.split.val=0.05"])) == []


def test_augmentation_with_a_frozen_backbone_is_noted_in_a_plan(store: Store) -> None:
    small = [f"data.{split}_images=64" for split in ("train", "val", "test")]
    small += ["experts.readers=1", "distill.pairs=[4]", "applications.run=[]"]

    def is_noted(augment: str) -> bool:
        notes = plan(load_experiment("applications-scenes", [*small, f"experts.augment={augment}"]), store).notes
        return any(
            note.startswith("Experts encode augmented images in every epoch: with experts.augment: null") for note in notes
        )

    assert is_noted("{}")
    assert not is_noted("null")


def test_limits_that_take_the_first_images_of_a_source_are_noted(tmp_path: Path) -> None:
    """In the source's order, which is often that of the classes."""
    for number in range(12):
        pair(tmp_path / "abc"[number % 3] / f"{number}.jpg", "a caption")
    source = {"name": "folder", "path": str(tmp_path)}

    def notes(**limits: int) -> list[str]:
        data = {"source": source, "split": {"val": 0.25, "test": 0.25}, **limits}
        found = advice_on(Experiment(name="limited", data=data, model={"image": {"weights": "random"}}, distill={"pairs": [2]}))
        return [note for note in found if note.startswith("Only the first images")]

    assert notes() == notes(train_images=6) == notes(val_images=3) == []
    assert notes(train_images=4, val_images=2, test_images=3) == [
        "Only the first images in the source's order are taken (train 4 of 6, val 2 of 3): if it is sorted, for example by "
        "class, they are not like the others; then shuffle it, or remove data.train_images, data.val_images"
    ]
    assert not any("first images" in note for note in advice_on(load_experiment("scenes", ["data.train_images=1000"])))


def test_mirrored_images_of_scenes_are_noted() -> None:
    sentence = "Captions of scenes say left and right, and experts.augment.flip mirrors images: set it to false"
    assert sentence in advice_on(load_experiment("scenes", ["experts.augment={}"]))
    assert sentence not in advice_on(load_experiment("scenes", ["experts.augment={flip: false}"]))


def test_fewer_experts_than_selections_are_noted() -> None:
    """With the published protocol, a coreset has five selections."""

    def notes(*overrides: str) -> list[str]:
        return advice_on(load_experiment("scenes", ["evaluation.seeds=[0, 1, 2, 3, 4]", *overrides]))

    (note,) = notes("coresets.methods=[random, herding]")
    assert note == (
        "Coresets are selected by 3 experts for 5 evaluation.seeds, so selections may repeat, and their spread be too small: "
        "set experts.count to 5, or name fewer evaluation.seeds"
    )
    assert notes("coresets.methods=[random]") == notes("experts.count=5", "coresets.methods=[herding]") == []


def test_small_splits_on_which_recall_is_measured_are_noted() -> None:
    """Also val, by which pairs and learning rates are chosen."""
    of_test, of_val = (advice_on(load_experiment("scenes", [f"data.{split}_images=6"])) for split in ("test", "val"))
    coarse = (
        "With 6 {} images, a student's TR@K changes in steps of 16.7 percentage points, and any student has 100 % in IR@10 "
        "(with one caption per image in TR@10 too)"
    )
    assert of_test == [coarse.format("test")]
    assert of_val == [coarse.format("val")]
