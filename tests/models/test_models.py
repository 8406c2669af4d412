"""Towers, heads, LoRA, the parameter view, the loss, the frozen text encoder."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.identity import text_identity
from vldd_dist.models.image import create_backbone
from vldd_dist.models.losses import contrastive_loss
from vldd_dist.models.parameters import ParameterView, call
from vldd_dist.models.text import FrozenTextEncoder
from vldd_dist.settings import HeadSettings, ImageTowerSettings, LoraSettings, ModelSettings, TextTowerSettings

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


@pytest.mark.parametrize(
    ("train", "moving"),
    [("full", "image_backbone.stem.0.weight"), ("lora", "lora_A"), ("head", "image_head.weight"), ("frozen", None)],
)
def test_what_moves(train: str, moving: str | None) -> None:
    head = "none" if train == "frozen" else "linear"
    image = {**VIT, "train": train, "head": HeadSettings(kind=head)}
    model = build(settings(image, joint_dim=None if head == "none" else 16), 24, None, 0)
    view = ParameterView(model)
    image_names = [name for name, tower in zip(view.names, view.towers, strict=True) if tower == "image"]
    assert set(view.towers) == ({"text"} if moving is None else {"image", "text"})
    if train == "full":
        assert len(image_names) == len(list(model.image_backbone.parameters())) + 2
    if train == "lora":
        assert all("lora_" in name or name.startswith("image_head") for name in image_names)
        assert sum("lora_" in name for name in image_names) == 2 * 2 * len(model.image_backbone.blocks)  # type: ignore[arg-type]
    if train == "head":
        assert image_names == ["image_head.bias", "image_head.weight"]


def test_lora_that_matches_nothing_is_refused() -> None:
    image = {**VIT, "train": "lora", "lora": LoraSettings(targets="nothing")}
    with pytest.raises(ConfigError, match=r"lora.targets: 'nothing' matches no linear layer"):
        build(settings(image), 24, None, 0)


def test_the_view_reads_writes_and_refuses_foreign_snapshots() -> None:
    model, other = build(settings(), 24, None, 0), build(settings(), 24, None, 1)
    view = ParameterView(model)
    theta = ParameterView(other).read()
    by_call = call(model, view, theta, *[torch.ones(2, 3, 32, 32), torch.ones(2, 24)])
    view.write(view.from_dicts(ParameterView(other).as_dict("image"), ParameterView(other).as_dict("text")))
    for a, b in zip(by_call, model(torch.ones(2, 3, 32, 32), torch.ones(2, 24)), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(DataError, match="is in one of them only"):
        view.from_dicts({}, view.as_dict("text"))
    image = dict(view.as_dict("image"))
    name = next(iter(image))
    image[name] = torch.zeros(1, 1)
    with pytest.raises(DataError, match=r"a snapshot does not fit the model: .* is \(1, 1\), not"):
        view.from_dicts(image, view.as_dict("text"))


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


def test_an_unknown_model_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"timm has no 'resnet5o'; near: .*resnet50"):
        create_backbone("resnet5o", {}, pretrained=False, seed=0)


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


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    plain, checkpointed = (build(settings({**VIT, "grad_checkpointing": on}), 24, None, 0) for on in (False, True))
    gradients = []
    for model in (plain, checkpointed):
        contrastive_loss(*features(model), 0.07).backward()  # type: ignore[misc]
        gradients.append([p.grad for p in ParameterView(model).parameters])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_normalise_and_back() -> None:
    model = build(settings(), 24, None, 0)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(model.denormalise(model.normalise(pixels)), pixels)
    expected = (pixels.numpy()[0, 1, 2, 3] / 255 - 0.456) / 0.224
    assert float(model.normalise(pixels)[0, 1, 2, 3]) == pytest.approx(expected, rel=1e-5)


def test_contrastive_loss_against_numpy() -> None:
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(5, 7)), generator.normal(size=(5, 7))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    logits = unit[0] @ unit[1].T / 0.07
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    expected = (rows.mean() + columns.mean()) / 2
    tensors = torch.from_numpy(image), torch.from_numpy(text)
    assert float(contrastive_loss(*tensors, 0.07)) == pytest.approx(expected)
    assert float(contrastive_loss(*tensors, 0.07, torch.eye(5).double() * 3)) == pytest.approx(expected)


def test_text_encoder_pools_scales_and_does_not_depend_on_the_batch() -> None:
    captions = ["a red circle", "a small blue star to the left of a large yellow ring on a black background", "x"]
    base = TextTowerSettings(model="minilm", pooling="mean", scale="sqrt_dim", max_tokens=30)
    encoder = FrozenTextEncoder(base, torch.device("cpu"))
    together, alone = encoder.encode(captions, 3), encoder.encode(captions, 1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.full((3,), 384**0.5))
    cls = FrozenTextEncoder(base.model_copy(update={"pooling": "cls", "scale": "none"}), torch.device("cpu"))
    assert not torch.allclose(cls.encode(captions, 3), together)
    assert encoder.identity == text_identity(base)
    assert encoder.identity["sha256"]


def test_a_missing_text_encoder_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"model.text.model: no-such-model cannot be loaded"):
        FrozenTextEncoder(TextTowerSettings(model="no-such-model"), torch.device("cpu"))


def test_models_import_without_the_orchestra() -> None:
    code = (
        "import sys, vldd_dist.models.dual_encoder, vldd_dist.distillation.student, vldd_dist.evaluation.student; "
        "print([m for m in ('ray', 'deepspeed', 'webdataset', 's3fs') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
