"""Metrics other than recall compared with a slow reference implementation."""

import numpy as np
import pytest
import torch

from vldd_dist.config.base import choose
from vldd_dist.plugins import METRICS


# Of the 40 captions the two middle ranks differ.
@pytest.mark.parametrize("captions", [31, 40])
def test_the_median_rank_is_that_of_a_sort(captions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(12, 5, generator=generator), torch.randn(captions, 5, generator=generator)
    owner = torch.arange(captions) % 12
    unit = [(rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (images, texts)]
    ranks = [1 + list(np.argsort(-(unit[0] @ text))).index(int(own)) for text, own in zip(unit[1], owner, strict=True)]
    metric = choose(METRICS, "median_rank")
    assert metric.measure(images, texts, owner) == np.median(ranks)
    assert metric.measure(torch.ones(12, 5), torch.ones(captions, 5), owner) == 12, "ties count against the model"
