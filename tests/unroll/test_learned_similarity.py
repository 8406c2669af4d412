"""A learned similarity in the unroll, together with a learned temperature: every gradient reaches both."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.distillation.unroll import UnrollResult
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.testing.unroll_cases import dual_encoder_case, flat, relative

# The number of learned elements for four pairs.
NUMBERS = {"low_rank": 4 * (1 + 2 * 2), "full": 4 * 4}
SIMILARITIES: list[dict[str, Any]] = [{"kind": "low_rank", "rank": 2}, {"kind": "full"}]


def of_similarity(found: UnrollResult) -> Tensor:
    """The tensors that follow images and texts in the batches."""
    return torch.cat([gradient.flatten() for batch in found.batch_gradients for gradient in batch[2:]])


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda given: given["kind"])
def test_every_gradient_reaches_the_similarity(similarity: dict[str, Any]) -> None:
    """Also by finite differences, because the mask of similarities does not depend on the student."""
    for dtype, tolerances in (
        (torch.float64, {"exact": 1e-10}),
        (torch.float32, {"exact": 1e-5, "finite_difference": 2e-3}),
    ):
        loss = WeightedBCE(temperature=0.07, similarity=similarity, learn_temperature=True)
        case = dual_encoder_case(loss=loss, dtype=dtype).in_model_inputs()
        full = case.gradient("full")
        assert len(of_similarity(full)) == 3 * NUMBERS[similarity["kind"]]
        for name, tolerance in tolerances.items():
            found = case.gradient(name)
            assert relative(of_similarity(found), of_similarity(full)) < tolerance
            assert relative(flat(found), flat(full)) < tolerance
            assert relative(found.shared_gradients[0], full.shared_gradients[0]) < tolerance
    # In fp32, which the loop ends with.
    forward = case.gradient("finite_difference", "forward")
    assert relative(of_similarity(forward), of_similarity(full)) < 1e-2
    assert relative(forward.shared_gradients[0], full.shared_gradients[0]) < 1e-2
    # `tesla` is not exact, because it does not update the adjoint.
    tesla = of_similarity(case.gradient("tesla"))
    assert torch.nn.functional.cosine_similarity(tesla, of_similarity(full), dim=0) > 0.5
    one = dual_encoder_case(loss=WeightedBCE(temperature=0.07, similarity=similarity), steps=1).in_model_inputs()
    assert relative(of_similarity(one.gradient("tesla")), of_similarity(one.gradient("full"))) < 1e-5
