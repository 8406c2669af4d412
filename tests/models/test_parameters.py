"""The view of the trainable parameters, and calling a model with other parameters than its own."""

import pytest
import torch
from torch import Tensor

from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.errors import DataError
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView, call

TEXT_DIM = 24
VIT = {"model": "test_vit", "model_args": {"img_size": 32}}


def model(seed: int = 0, **image: object) -> DualEncoder:
    tower = ImageTowerSettings(**{"model": "test_nfnet", "weights": "random", **image})  # type: ignore[arg-type]
    return build(ModelSettings(image=tower, text=TextTowerSettings(head=HeadSettings(dropout=0.3))), TEXT_DIM, None, seed)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.randn(4, TEXT_DIM, generator=generator)


def test_the_order_is_image_then_text_each_by_name() -> None:
    view = ParameterView(model())
    assert view.tower_names == sorted(view.tower_names)
    for tower in ("image", "text"):
        owned = [name for name, owner in zip(view.names, view.tower_names, strict=True) if owner == tower]
        assert owned == sorted(owned)
        assert owned == list(view.as_dict(tower))
    assert view.count == sum(value.numel() for value in view.read())


def test_what_is_read_is_a_copy_and_what_is_written_is_read_again() -> None:
    view, other = ParameterView(model(0)), ParameterView(model(1))
    before = view.read()
    view.write(view.from_dicts(other.as_dict("image"), other.as_dict("text")))
    assert all(torch.equal(a, b) for a, b in zip(view.read(), other.read(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(view.read(), before, strict=True))


def test_foreign_snapshots_are_refused() -> None:
    view = ParameterView(model())
    image, text = view.as_dict("image"), view.as_dict("text")
    with pytest.raises(DataError, match=r"a snapshot of the image tower does not fit the model: .* is in one of them only"):
        view.from_dicts({}, text)
    with pytest.raises(DataError, match="image tower"):
        view.from_dicts(text, image)
    name = next(iter(image))
    with pytest.raises(DataError, match=rf"a snapshot does not fit the model: {name} is \(1, 1\), not"):
        view.from_dicts(image | {name: torch.zeros(1, 1)}, text)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_call_is_the_model_with_those_parameters(checkpointing: bool) -> None:
    own, other = model(0, grad_checkpointing=checkpointing), model(1)
    before = ParameterView(own).read()
    found = call(own, ParameterView(own), ParameterView(other).read(), *batch())
    for a, b in zip(found, other(*batch()), strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.equal(a, b) for a, b in zip(ParameterView(own).read(), before, strict=True))


@pytest.mark.parametrize(
    "image",
    [
        {},
        {**VIT, "model_args": {"img_size": 32, "proj_drop_rate": 0.2, "drop_path_rate": 0.2}},
        {**VIT, "train": "lora"},
        {**VIT, "train": "lora", "lora": {"dropout": 0.3}},
    ],
    ids=["nfnet", "vit with dropout", "lora vit", "lora vit with dropout"],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_changes_no_derivative_of_a_call(bf16: bool, image: dict) -> None:
    """At parameters that are not the model's own: a recomputed pass must not fall back on those. First and second
    derivatives, bit for bit, with the masks of dropout and in the precision of the first pass."""
    derivatives = []
    for checkpointing in (False, True):
        encoder = model(0, grad_checkpointing=checkpointing, **image)
        encoder.bf16_backbone = bf16
        derivatives.append(_derivatives(encoder))
    for a, b in zip(*derivatives, strict=True):
        assert torch.equal(a, b)


def _derivatives(model: DualEncoder) -> list[Tensor]:
    set_unfused_attention(model.train())
    view = ParameterView(model)
    theta = [(value + 0.02 * torch.ones_like(value)).requires_grad_() for value in view.read()]
    images, texts = (tensor.requires_grad_() for tensor in batch())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        loss = InfoNCE()(*call(model, view, theta, images, texts))
        first = torch.autograd.grad(loss, theta, create_graph=True)
        squares = torch.stack([gradient.square().sum() for gradient in first]).sum()
        second = torch.autograd.grad(squares, [*theta, images, texts], allow_unused=True, materialize_grads=True)
    assert any(bool(gradient.any()) for gradient in second)
    return [*(gradient.detach() for gradient in first), *second]


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = model(grad_checkpointing=checkpointing, **VIT)
        InfoNCE()(*encoder(*batch())).backward()
        gradients.append([parameter.grad for parameter in ParameterView(encoder).parameters])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
