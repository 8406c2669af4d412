"""Gradients of the inner steps' batches, summed into gradients of the pairs."""

import torch

from vldd_dist.distillation.unroll import scatter_to_pairs


def test_batch_gradients_are_summed_into_pairs() -> None:
    # Pairs that occur twice in a batch and in several batches; an index that is a strided view.
    indices = [torch.tensor([4, 9, 4, 9])[::2], torch.tensor([2, 3])]
    images, texts = scatter_to_pairs([[torch.ones(2, 3).T.contiguous().T, torch.ones(2, 1)]] * 2, indices, 5)
    assert images[:, 0].tolist() == [0, 0, 1, 1, 2]
    assert texts[:, 0].tolist() == [0, 0, 1, 1, 2]
    indices = [torch.tensor([0, 2]), torch.tensor([2, 3])]
    batches = [[torch.ones(2, 3), torch.ones(2, 1)], [torch.full((2, 3), 10.0), torch.ones(2, 1)]]
    images, texts = scatter_to_pairs(batches, indices, 5)
    assert images[:, 0].tolist() == [1, 0, 11, 10, 0]
    assert texts[:, 0].tolist() == [1, 0, 2, 1, 0]
