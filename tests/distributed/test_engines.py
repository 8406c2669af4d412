"""Every sharding of a model compared with one process: `ShardedModel`'s operations one by one."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vldd_dist.config.base import Sharding
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.sharding.engines.blocks import blocks_of
from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.testing.processes.group import Group


class Block(nn.Module):
    """A block with more elements than `SMALLEST_BLOCK`, five rows, a gain, and a tensor that is not trained."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(4000, 5), nn.Linear(5, 4000)
        self.gain = nn.Parameter(torch.full(shape, 0.5))
        self.still = nn.Parameter(torch.randn(3, 7), requires_grad=False)
        self.still_gain = nn.Parameter(torch.full(shape, 2.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.back(self.there(x).tanh()) * self.still_gain * self.still.mean()


class Network(nn.Module):
    """Two blocks, and outside of them a single row, which three ranks cannot divide, and a gain."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(*shape), Block(*shape))
        self.row, self.gain = nn.Parameter(torch.randn(1, 4000)), nn.Parameter(torch.full(shape, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x + self.row) * self.gain


def worked(ranks: Ranks, sharding: Sharding, shape: tuple[int, ...]) -> dict[str, list[Tensor]]:
    """Name -> gathered tensors, after each operation on a network with gains of this shape."""
    torch.manual_seed(0)
    model, rows = Network(*shape), torch.randn(6, 4000)
    own = rows[slice(*ranks.rows(6))].requires_grad_()
    momentum = [torch.randn_like(p) for p in model.parameters() if p.requires_grad]
    there = [torch.randn_like(value) / 30 for value in momentum]
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=0.01)
    engine = shard_model(model, optimiser, sharding, ranks)
    layout = engine.layout

    def loss() -> Tensor:
        return engine(own).square().sum()

    found = {"begun with": layout.gather(engine.read())}
    with torch.no_grad():
        found["forward pass alone"] = [ranks.sum_in_place(loss())]
    engine.write(layout.cut(there))
    found["written"] = layout.gather(engine.read())
    found["gradient"] = layout.gather(engine.backward(loss()))
    assert own.grad is not None
    whole = rows.detach().new_zeros(6, 4000)
    whole[slice(*ranks.rows(6))] = own.grad
    found["gradient of the inputs"] = [ranks.sum_in_place(whole)]
    engine.write_momentum(layout.cut(momentum))
    for _ in range(2):
        engine.step(loss())
    found["after steps"] = layout.gather(engine.read())
    found["momentum"] = layout.gather(engine.read_momentum())
    found["still"] = [engine.whole("blocks.1.still").clone(), engine.whole("blocks.0.still_gain").clone()]
    # Every element is on one rank, and a rank's part is a flat tensor.
    assert all(shard.dim() == 1 for shard in engine.read())
    assert sum(ranks.all_gather(sum(len(shard) for shard in engine.read()))) == sum(value.numel() for value in there)
    return found


@pytest.mark.parametrize(
    ("world", "sharding"), [(2, "zero2"), (2, "zero3"), (3, "none"), *((world, "fsdp") for world in (1, 2, 3))]
)
def test_ranks_do_what_one_process_does(world: int, sharding: Sharding, group: Callable[[int], Group]) -> None:
    # DeepSpeed supports no parameter without dimensions.
    shape = (1,) if sharding.startswith("zero") else ()
    wanted = worked(SOLO, "none", shape)
    for found in group(world).run(worked, sharding, shape):
        assert found.keys() == wanted.keys()
        for name, tensors in wanted.items():
            for one, other in zip(found[name], tensors, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("name", "kinds", "most"),
    [
        ("test_vit", {"Block": 6}, 0.8),
        ("test_resnet", {"BasicBlock": 3, "Bottleneck": 1}, 0.95),
        # Two convolutions of its stem, and the two stages that are large enough.
        ("test_nfnet", {"ScaledStdConv2d": 2, "NormFreeBlock": 2}, 0.75),
    ],
)
def test_blocks_do_not_overlap_and_hold_most_parameters(name: str, kinds: dict[str, int], most: float) -> None:
    """They do not overlap, and hold most of the parameters."""
    model = create_backbone(name, {}, pretrained=False, seed=0)
    blocks = blocks_of(model)
    assert Counter(type(block).__name__ for block in blocks) == kinds
    inside = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert len(set(inside)) == len(inside)
    elements = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert elements > most * sum(parameter.numel() for parameter in model.parameters())
