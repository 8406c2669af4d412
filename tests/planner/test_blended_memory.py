"""The memory that mixing features adds to an unroll, compared with the CPU's allocator."""

import torch
from torch import Tensor

from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.cost_model.distillation_memory import UnrolledStep, unroll_memory
from vldd_dist.cost_model.memory_model import peak, sizes_of
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.student.student import StepInputs, Student
from vldd_dist.distillation.unroll import Tensors, Unroll, unrolled_gradient
from vldd_dist.distillation.unroll.exact import EXACT
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.testing.allocated import allocated_peak

TEXT_DIM, STEPS = 384, 3


def test_blended_steps_take_what_the_estimate_says() -> None:
    """They take more than plain steps, because the mixed features are kept for the backward pass."""
    pairs, head, estimates = 1024, HeadSettings(kind="projection", dropout=0), []
    image = ImageTowerSettings(model="test_nfnet", weights="random", train="head", head=head)
    settings = ModelSettings(image=image, text=TextTowerSettings(head=head), joint_dim=64)
    trace, blend = MemoryTrace(settings, TEXT_DIM, 32), Blending().of_step(seed=0)
    for mixed in (None, blend):
        second = trace.second_order(pairs, dropout=False, with_theta=True, blend=mixed)
        step = UnrolledStep(pairs * trace.input_bytes(pairs), second)
        estimates.append(peak(unroll_memory(sizes_of(trace), step, DistillationSettings(objective={"inner_steps": STEPS}))))
    assert estimates[0] < estimates[1]

    student = Student(build(settings, TEXT_DIM, None, 0), InfoNCE(), dropout=False, fused_attention=False)
    student = student.with_inputs(StepInputs(blend=blend))
    features = student.model.image_head.projection.in_features
    batches = [[torch.randn(pairs, features), torch.randn(pairs, TEXT_DIM)] for _ in range(STEPS)]

    def outer(end: Tensors) -> Tensor:
        return torch.stack([tensor.square().sum() for tensor in end]).sum()

    unroll = Unroll(student.view.read(), torch.tensor([0.01, 0.01]), batches, outer, student.towers)
    measured = allocated_peak(lambda: unrolled_gradient(unroll, EXACT, student))
    assert measured / 1.05 < estimates[1] < measured * 1.05
