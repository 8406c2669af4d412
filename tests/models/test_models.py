"""Towers, heads and LoRA: construction, trainable parameters, and errors."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, LoraSettings, ModelSettings, TextTowerSettings
from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.backbone import (
    add_lora,
    create_backbone,
    feature_size,
    load_backbone,
    refuse_backbone_dropout,
)
from vldd_dist.models.parameters import ParameterView

SMALL_SWIN = {"embed_dim": 24, "depths": [1, 1, 1, 1]}
VIT = {"model": "test_vit", "model_args": {"img_size": 32}, "weights": "random"}


def settings(image: dict | None = None, text: dict | None = None, joint_dim: int | None = None) -> ModelSettings:
    return ModelSettings(
        image=ImageTowerSettings(**{"model": "test_nfnet", "weights": "random", **(image or {})}),
        text=TextTowerSettings(**{"model": "minilm", **(text or {})}),
        joint_dim=joint_dim,
    )


def features(model: DualEncoder, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return model(torch.randn(3, 3, 32, 32, generator=generator), torch.randn(3, 24, generator=generator))


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (build(settings(), 24, None, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.text_head.projection.weight, other.text_head.projection.weight)  # type: ignore[union-attr]
    image, text = features(one)
    assert image.shape == text.shape == (3, one.joint_dim)


@pytest.mark.parametrize("train", ["full", "lora", "head"])
def test_a_backbone_that_is_not_trained_is_the_same_for_every_seed(train: str) -> None:
    """An expert's snapshots do not contain it."""
    image = {**VIT, "train": train, "head": HeadSettings(kind="linear")}
    one, other = (build(settings(image, joint_dim=16), 24, None, seed).state_dict() for seed in (1, 2))
    name = next(key for key in one if key.endswith("patch_embed.proj.weight"))
    assert torch.equal(one[name], other[name]) is (train != "full")
    assert not torch.equal(one["image_head.weight"], other["image_head.weight"])


@pytest.mark.parametrize(
    ("train", "moving"),
    [("full", "image_backbone.stem.0.weight"), ("lora", "lora_A"), ("head", "image_head.weight"), ("frozen", None)],
)
def test_trainable_parameters_for_each_value_of_train(train: str, moving: str | None) -> None:
    head = "none" if train == "frozen" else "linear"
    image = {**VIT, "train": train, "head": HeadSettings(kind=head)}
    model = build(settings(image, joint_dim=None if head == "none" else 16), 24, None, 0)
    view = ParameterView(model)
    image_names = [name for name, tower in zip(view.names, view.tower_names, strict=True) if tower == "image"]
    assert set(view.tower_names) == ({"text"} if moving is None else {"image", "text"})
    if train == "full":
        assert len(image_names) == len(list(model.image_backbone.parameters())) + 2
    if train == "lora":
        assert all("lora_" in name or name.startswith("image_head") for name in image_names)
        assert sum("lora_" in name for name in image_names) == 2 * 2 * len(model.image_backbone.blocks)  # type: ignore[arg-type]
    if train == "head":
        assert image_names == ["image_head.bias", "image_head.weight"]


def test_adapters_change_nothing_at_the_start() -> None:
    whole, adapted = (build(settings({**VIT, "train": train}), 24, None, 0) for train in ("full", "lora"))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapted.image_features(images), whole.image_features(images))


@pytest.mark.parametrize(
    ("targets", "complaint"), [("nothing", "matches no linear layer"), ("*.attn", "is not a regular expression")]
)
def test_lora_targets_without_use_are_refused(targets: str, complaint: str) -> None:
    image = {**VIT, "train": "lora", "lora": LoraSettings(targets=targets)}
    with pytest.raises(ConfigError, match=rf"lora.targets: '{re.escape(targets)}' {complaint}"):
        build(settings(image), 24, None, 0)


def test_adapters_are_in_the_layers_that_the_expression_matches_and_in_no_others() -> None:
    """peft takes a name in a list as the end of names, so `proj` would also adapt `inner.proj`, and a convolution."""
    inner = nn.ModuleDict({"proj": nn.Linear(4, 4), "conv": nn.ModuleDict({"proj": nn.Conv2d(3, 4, 1)})})
    backbone = add_lora(nn.ModuleDict({"proj": nn.Linear(4, 4), "inner": inner}), LoraSettings(targets="proj"))
    assert [name for name, module in backbone.named_modules() if hasattr(module, "lora_A")] == ["proj"]


def test_weights_go_in_without_their_classifier_and_wrong_ones_are_named() -> None:
    import timm

    whole = timm.create_model("test_nfnet", num_classes=10)
    image = settings({"weights": "file"})
    model = build(image, 24, whole.state_dict(), 0)
    assert torch.equal(model.image_backbone.stem.conv1.weight, whole.stem.conv1.weight)  # type: ignore[union-attr]
    broken = whole.state_dict() | {"stem.conv1.weight": torch.zeros(1)}
    with pytest.raises(DataError, match=r"other shapes for stem.conv1.weight"):
        build(image, 24, broken, 0)
    with pytest.raises(DataError, match="lack"):
        build(image, 24, {"x": torch.zeros(1)}, 0)


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [
        ("test_vit", {}, {"img_size": 96}),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, SMALL_SWIN | {"img_size": 256, "window_size": 8}),
    ],
)
def test_weights_of_another_image_size_are_resampled_as_timm_does(name: str, usual: dict, other: dict, tmp_path: Path) -> None:
    import timm

    whole = create_backbone(name, usual, pretrained=False, seed=1)
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    from_file = {"file": str(tmp_path / "w.pt")}
    wanted = timm.create_model(name, num_classes=0, pretrained=True, pretrained_cfg_overlay=from_file, **other)
    backbone = create_backbone(name, other, pretrained=False, seed=0)
    load_backbone(backbone, whole.state_dict(), name)
    assert any(whole.state_dict()[key].shape != value.shape for key, value in wanted.state_dict().items())
    for key, value in wanted.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_positions_that_timm_cannot_resample_are_of_another_image_size() -> None:
    """Patches of another size are another model."""
    backbone = create_backbone("test_vit", {}, pretrained=False, seed=0)
    whole = backbone.state_dict()
    with pytest.raises(
        DataError, match=r"pos_embed has the shape \(1, 5, 3\), not .* cannot be resampled: .* another image size"
    ):
        load_backbone(backbone, whole | {"pos_embed": torch.zeros(1, 5, 3)}, "test_vit")
    with pytest.raises(DataError, match=r"other shapes for patch_embed.proj.weight: they are not of test_vit"):
        load_backbone(backbone, whole | {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)}, "test_vit")


def test_an_unknown_model_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"timm has no 'resnet5o'; similar names: .*resnet50"):
        create_backbone("resnet5o", {}, pretrained=False, seed=0)


@pytest.mark.parametrize(
    ("name", "arguments"), [("resnet50.no_such_tag", {}), ("test_vit", {"no_such_argument": 1}), ("test_vit", {"depth": "x"})]
)
def test_what_timm_refuses_is_a_configuration_error(name: str, arguments: dict) -> None:
    with pytest.raises(ConfigError, match=r"^model\.image\.model"):
        create_backbone(name, arguments, pretrained=False, seed=0)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "mobilenetv3_small_050", "ghostnet_050"])
def test_the_feature_size_is_that_of_the_features(name: str) -> None:
    """MobileNetV3 and GhostNet have a layer between pooling and classifier."""
    backbone = create_backbone(name, {}, pretrained=False, seed=0).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 160, 160))
    assert features.shape == (1, feature_size(backbone))


def test_weights_of_models_with_two_classifiers_are_loaded() -> None:
    import timm

    small = {"img_size": 32, "embed_dim": 48, "depth": 1}
    model = {"model": "deit_tiny_distilled_patch16_224", "model_args": small, "weights": "file"}
    weights = timm.create_model("deit_tiny_distilled_patch16_224", **small).state_dict()
    assert "head_dist.weight" in weights
    build(settings(model), 24, weights, 0)


def test_sizes_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.text.head.kind: none needs text features of the joint space's size"):
        build(settings(text={"head": HeadSettings(kind="none"), "train": "frozen"}), 24, None, 0)


def test_batch_norm_statistics_never_move() -> None:
    model = build(settings({"model": "test_resnet"}), 24, None, 0)
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    features(model)
    assert norms
    assert not any(norm.training for norm in norms)
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_normalise_and_back() -> None:
    model = build(settings(), 24, None, 0)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(model.denormalise(model.normalise(pixels)), pixels)
    expected = (pixels.numpy()[0, 1, 2, 3] / 255 - 0.456) / 0.224
    assert float(model.normalise(pixels)[0, 1, 2, 3]) == pytest.approx(expected, rel=1e-5)


def test_a_backbone_that_drops_is_refused_on_several_ranks() -> None:
    for image in (
        {"train": "lora", "lora": {"dropout": 0.1}},
        {"model_args": {"img_size": 32, "drop_path_rate": 0.2}},
        {"model_args": {"img_size": 32, "patch_drop_rate": 0.25}},
        # Without a layer: the model itself calls a function.
        {"model": "test_efficientnet", "model_args": {"drop_rate": 0.2}},
    ):
        settings = {"model": "test_vit", "model_args": {"img_size": 32}, "weights": "random"} | image
        model = build(ModelSettings.model_validate({"image": settings}), 8, None, 0)
        with pytest.raises(
            ConfigError, match=r"^image_backbone.* drops with probability 0\.\d+, which several ranks do not support"
        ):
            refuse_backbone_dropout(model)
    head = ModelSettings.model_validate({"image": {"model": "test_vit", "weights": "random"}})
    refuse_backbone_dropout(build(head, 8, None, 0))


def test_a_frozen_backbone_never_drops_and_is_not_refused() -> None:
    image = {"model": "test_vit", "model_args": {"img_size": 32, "drop_path_rate": 0.3}, "weights": "random", "train": "head"}
    model = build(ModelSettings.model_validate({"image": image | {"head": {"kind": "linear"}}}), 8, None, 0).train()
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(model.image_backbone(images), model.image_backbone(images))
    refuse_backbone_dropout(model)
