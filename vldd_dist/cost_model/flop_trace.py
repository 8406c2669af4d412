"""Counts the floating-point operations of a dual encoder's passes. They run on the meta device, so nothing is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vldd_dist.cost_model.memory_trace import META, MemoryTrace
from vldd_dist.distillation.unroll import DoubleBackward
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.inputs import frozen_backbone

# The operations of a step are counted for this many pairs, and divided by it. The scores of a batch are quadratic in its size,
# but negligible beside the towers.
COUNTED = 8

# Passes for this many pairs or images.
Counted = Callable[[], object]


class FlopCount(TorchDispatchMode):
    """Counts matrix products and convolutions. A multiplication and an addition count as two operations. PyTorch's own counter
    also tracks modules, and therefore fails on `torch.autograd.grad` of leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


class FlopTrace:
    """Operations of each pass for one pair or image: an `objectives.costs.PassCosts`. The counts are cached in the trace."""

    def __init__(self, trace: MemoryTrace) -> None:
        self._trace = trace
        self.freezes_backbone, self.has_features = trace.freezes_backbone, trace.has_features
        self.joint_dim = trace.joint_dim

    @property
    def training(self) -> float:
        """One pair in a forward and backward pass of the trainable part; the features of a frozen image backbone are inputs."""
        return self._once("training", self._training)

    def second_order(self, fixed: frozenset[str]) -> float:
        """One pair in an inner step that is differentiated twice: the gradient, and its products with a direction.

        Args:
            fixed: names of the pair's tensors that are not learned.
        """
        return self._once(" ".join(["second order", *sorted(fixed)]), lambda: self._second_order(fixed))

    @property
    def encoding(self) -> float:
        """One image through the image tower."""
        return self._once("encoding", self._encoding)

    @property
    def pixels(self) -> float:
        """One image through a frozen backbone, and back to its pixels."""
        return self._once("pixels", self._pixels)

    @property
    def text_encoding(self) -> float:
        """One caption embedding through the text head."""
        return self._once("text encoding", self._text_encoding)

    def _training(self) -> Counted:
        student, theta, batch = self._trace.student(COUNTED, dropout=False, fused=False)
        return lambda: student.loss([tensor.requires_grad_() for tensor in theta], batch, 0).backward()

    def _second_order(self, fixed: frozenset[str]) -> Counted:
        student, theta, batch = self._trace.student(COUNTED, dropout=False, fused=False, fixed=fixed)
        derivatives = DoubleBackward(student)
        direction = [torch.empty_like(tensor) for tensor in theta]

        def step() -> None:
            first = derivatives.gradient(theta, batch, 0, last=True)
            derivatives.products(theta, batch, 0, direction, first, with_theta=True)

        return step

    def _encoding(self) -> Counted:
        model, images = self._trace.model(), self._images()
        # Its first pass decides on the layout of such images.
        if backbone := frozen_backbone(model):
            backbone.features(images)

        @torch.no_grad()
        def encode() -> None:
            model.image_features(backbone.features(images) if backbone else images)

        return encode

    def _pixels(self) -> Counted:
        images = self._images()
        backbone = FrozenBackbone(self._trace.model().image_backbone)
        backbone.features(images)

        def there_and_back() -> None:
            passed = backbone.chunk_with_graph(images)
            passed.pixel_gradients(torch.empty_like(passed.features))

        return there_and_back

    def _text_encoding(self) -> Counted:
        model, texts = self._trace.model(), torch.empty(COUNTED, self._trace.text_dim, device=META)
        return torch.no_grad()(lambda: model.text_features(texts))

    def _images(self) -> torch.Tensor:
        return self._trace.images(COUNTED)

    def _once(self, name: str, prepared: Callable[[], Counted]) -> float:
        """The operations for one of `COUNTED`, without those of what comes before, such as the features of a batch."""

        def count() -> int:
            work = prepared()
            with FlopCount() as counted:
                work()
            return counted.total

        return self._trace.once(("flops", name), count) / COUNTED
