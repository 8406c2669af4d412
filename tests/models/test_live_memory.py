"""`LiveMemory` against peaks counted by hand."""

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vldd_dist.models.live_memory import LiveMemory, fused_attention_on_meta

META = torch.device("meta")
FLOAT = 4


def test_freed_tensors_are_not_counted_and_views_take_no_memory() -> None:
    before = torch.empty(1000)
    with LiveMemory() as memory:
        view = before.view(10, 100)[2:]
        made = view + 1
        assert memory.live == made.nbytes == 800 * FLOAT
        larger = torch.cat([made, made])
        del made
        assert memory.live == larger.nbytes
        # In-place operations and operations into an existing tensor.
        larger.mul_(2)
        torch.add(before, 1, out=before)
    assert memory.live == larger.nbytes
    assert memory.peak == 3 * 800 * FLOAT
    del view, larger
    assert memory.live == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_of_an_mlp_is_the_one_counted_by_hand(device: str) -> None:
    batch, width, hidden = 64, 32, 256
    first, second = (nn.Linear(*sizes, bias=False, device=device) for sizes in ((width, hidden), (hidden, 1)))
    inputs = torch.empty(batch, width, device=device)
    with LiveMemory() as memory:
        raised = first(inputs)
        after_first = memory.live
        output = second(functional.relu(raised))
        del raised
        # The second layer keeps relu's output for its backward pass; relu keeps its output too, but not its input.
        assert after_first == batch * hidden * FLOAT
        assert memory.live == (batch * hidden + batch) * FLOAT
        assert memory.peak == (2 * batch * hidden + batch) * FLOAT
        gradients = torch.autograd.grad(output, [first.weight, second.weight], torch.ones_like(output))
        assert memory.live == (batch + width * hidden + hidden) * FLOAT
    del output, gradients
    gc.collect()
    assert memory.live == 0


def test_fused_attention_on_meta_writes_no_scores() -> None:
    tokens, heads, size = 128, 4, 16
    query = torch.empty(2, heads, tokens, size, device=META, requires_grad=True)
    scores = 2 * heads * tokens**2 * FLOAT

    def peak_of_attention() -> int:
        with LiveMemory() as memory:
            functional.scaled_dot_product_attention(query, query, query, dropout_p=0.0).sum().backward()
        query.grad = None
        return memory.peak

    assert peak_of_attention() > scores
    original = functional.scaled_dot_product_attention
    with fused_attention_on_meta():
        assert peak_of_attention() < scores
    assert functional.scaled_dot_product_attention is original


def test_fused_attention_on_meta_gives_the_same_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    parts: list[Tensor] = [torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3)]
    wanted = functional.scaled_dot_product_attention(*parts)
    with fused_attention_on_meta():
        assert torch.allclose(functional.scaled_dot_product_attention(*parts), wanted, atol=1e-6)
