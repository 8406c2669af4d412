"""The precision of fp32 products (TF32 or not) in finite differences and in `exact`."""

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import Gradient, Tensors, UnrollResult
from vldd_dist.testing.unroll_cases import dual_encoder_case


def test_differences_are_of_gradients_in_all_bits_of_fp32() -> None:
    """On a GPU torch rounds the factors of convolutions to TF32 by default; `exact` may use this, finite differences may
    not."""
    seen: dict[str, set[tuple[bool, bool]]] = {}

    class Watched(Student):
        def loss(self, theta: Tensors, batch: Tensors, step: int) -> Tensor:
            flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            seen.setdefault(name, set()).add(flags)
            return super().loss(theta, batch, step)

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        for name in ("exact", "finite_difference"):
            case = dual_encoder_case(steps=2)
            case.student.__class__ = Watched
            case.gradient(name, "forward")
        assert seen == {"exact": {(True, True)}, "finite_difference": {(False, False)}}
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_the_gradient_with_which_differences_are_compared_has_all_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[tuple[bool, bool]] = []

    def gradient(self: LocalUnroller, *_: object, method: Gradient) -> UnrollResult:
        flags.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        raise InterruptedError

    monkeypatch.setattr(LocalUnroller, "gradient", gradient)
    unroller = object.__new__(LocalUnroller)
    unroller.model = torch.nn.Identity()  # type: ignore[assignment]
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with pytest.raises(InterruptedError):
            unroller.check_differences(Mock(), None)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert flags == [(False, False)]
