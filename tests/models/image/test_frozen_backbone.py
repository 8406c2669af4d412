"""A frozen backbone computes the same as its backbone, but faster; compared in both precisions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vldd_dist.models.image.backbone import create_backbone, enable_grad_checkpointing
from vldd_dist.models.image.batch_norm_folding import fold_batch_norms
from vldd_dist.models.image.channels_last import gains_from_channels_last
from vldd_dist.models.image.frozen_backbone import CHUNK, FrozenBackbone, chunks_of
from vldd_dist.testing.unroll_cases import relative

SIZE = 64
VIT = ("test_vit", {"img_size": SIZE})


def backbone_of(name: str, dtype: torch.dtype = torch.float32, **arguments: object) -> nn.Module:
    """A backbone whose batch norms have statistics and coefficients as in a trained network: none is 0 or 1."""
    backbone = create_backbone(name, arguments, pretrained=False, seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high, generator=generator)
    return backbone.to(dtype)


def images_of(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(2))


def by_the_backbone(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features, random gradients of them, and the resulting gradients of the images."""
    leaf = images.clone().requires_grad_()
    features = backbone(leaf)
    gradients = torch.randn(features.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(3))
    return features.detach(), gradients, torch.autograd.grad(features, leaf, gradients)[0]


def norms_of(backbone: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("mobilenetv2_100", 52),
        ("resnet18", 20),
        ("test_byobnet", 14),
        ("tf_efficientnet_lite0", 49),
        ("test_nfnet", 0),
        (VIT[0], 0),
    ],
)
def test_features_and_pixel_gradients_are_the_backbones(name: str, norms: int, dtype: torch.dtype, tolerance: float) -> None:
    backbone = backbone_of(name, dtype, **(VIT[1] if name == VIT[0] else {}))
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    images = images_of(5, dtype)
    wanted, gradients, pixels = by_the_backbone(backbone, images)
    frozen = FrozenBackbone(backbone)
    encoded = frozen.features_with_graph(images, limit=1 << 30)
    assert relative(frozen.features(images), wanted) < tolerance
    assert relative(encoded.features, wanted) < tolerance
    found = encoded.pixel_gradients(gradients)
    assert relative(found, pixels) < tolerance
    assert found.is_contiguous()
    # All norms of these networks can be folded in the copy; the backbone itself is not changed.
    assert (norms_of(backbone), norms_of(frozen.backbone)) == (norms, 0)
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "test_vit"])
def test_keeping_graphs_changes_no_bit_and_saves_a_forward_pass(name: str) -> None:
    frozen = FrozenBackbone(backbone_of(name, **(VIT[1] if name == VIT[0] else {})))
    count = 2 * CHUNK + 1
    images, chunks = images_of(count), chunks_of(count)
    passed: list[int] = []
    frozen.backbone.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    graph_bytes = frozen.chunk_with_graph(images[: -(-count // chunks)]).graph_bytes
    assert graph_bytes > 5 * count * SIZE**2
    gradients = torch.randn(frozen.features(images[:1]).shape[1]).expand(count, -1)
    results = []
    for limit, kept in ((0, 0), (graph_bytes - 1, 0), (graph_bytes, 1), (chunks * graph_bytes, chunks)):
        passed.clear()
        encoded = frozen.features_with_graph(images, limit)
        assert encoded.kept == kept
        assert sum(passed) == count
        found = encoded.pixel_gradients(gradients)
        assert sum(passed) == 2 * count - sum(len(chunk) for chunk in images.tensor_split(chunks)[:kept])
        results.append((encoded.features, found))
    for features, found in results[1:]:
        assert torch.equal(features, results[0][0])
        assert torch.equal(found, results[0][1])
    assert torch.equal(frozen.features(images), results[0][0])


def test_a_tower_with_checkpointing_keeps_less() -> None:
    images, found, kept = images_of(8), [], []
    for checkpointing in (False, True):
        backbone = backbone_of("mobilenetv2_100")
        if checkpointing:
            enable_grad_checkpointing(backbone, "mobilenetv2_100")
        chunk = FrozenBackbone(backbone).chunk_with_graph(images)
        kept.append(chunk.graph_bytes)
        found.append(chunk.pixel_gradients(torch.ones_like(chunk.features)))
    assert kept[1] < kept[0] / 2
    assert relative(found[1], found[0]) < 1e-6


class Network(nn.Module):
    """A convolution and its batch norm, used as the given `forward` defines."""

    def __init__(self, forward: Callable[["Network", Tensor], Tensor], convolution: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.convolution, self.norm, self.how = convolution(3, 3, 3, padding=1), nn.BatchNorm2d(3), forward

    def forward(self, images: Tensor) -> Tensor:
        return self.how(self, images)


class Halved(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


def seen_twice(net: Network, images: Tensor) -> Tensor:
    found = net.convolution(images)
    return net.norm(found) + found


def branching(net: Network, images: Tensor) -> Tensor:
    return net.norm(net.convolution(images)) if images.shape[-1] > 1 else images


@pytest.mark.parametrize(
    ("network", "folded"),
    [
        (Network(lambda net, images: net.norm(net.convolution(images))), True),
        (Network(seen_twice), False),
        (Network(lambda net, images: net.norm(net.convolution(net.convolution(images)))), False),
        (Network(lambda net, images: net.norm(net.convolution(net.norm(images)))), False),
        (Network(lambda net, images: net.norm(net.convolution(images).relu())), False),
        (Network(lambda net, images: net.norm(net.convolution(images)) * net.convolution.weight.sum()), False),
        (Network(lambda net, images: net.norm(net.convolution(images)), Halved), False),
        (Network(branching), False),
    ],
    ids=["plain", "seen twice", "convolved twice", "normed twice", "activated", "lent", "a subclass", "branching"],
)
def test_batch_norms_are_folded_only_where_the_result_is_the_same(network: Network, folded: bool) -> None:
    network = network.eval().double()
    network.norm.running_mean.uniform_(-1, 1)
    images = images_of(2, torch.float64)
    with torch.no_grad():
        wanted = network(images)
        fold_batch_norms(network)
        assert relative(network(images), wanted) < 1e-12
    assert isinstance(network.norm, nn.Identity) == folded


@pytest.mark.parametrize(
    ("name", "gains"),
    [("mobilenetv2_100", True), ("resnet18", True), ("nf_regnet_b1", True), ("dm_nfnet_f0", False), (VIT[0], False)],
)
def test_the_layout_follows_from_the_model(name: str, gains: bool) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, VIT[1] if name == VIT[0] else {}, pretrained=False, seed=0)
        assert gains_from_channels_last(backbone, torch.empty(4, 3, SIZE, SIZE)) == gains
