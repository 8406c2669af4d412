"""A student's passes without memory: the same code on the "meta" device, counted, so that a plan can say what a run will take.

Nothing is downloaded and nothing large is allocated; both passes of a ViT-H's inner step take two seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.student.student import Student, without_fixed
from vldd_dist.distillation.unroll import DoubleBackward, Params, full_gradient
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.frozen_tower import CHUNK, FrozenTower
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.live_memory import LiveMemory, fused_attention_on_meta
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.sharding.blocks import blocks_of

META = torch.device("meta")

Asked = ParamSpec("Asked")
Found = TypeVar("Found")


@dataclass(frozen=True)
class SecondOrder:
    """One inner step differentiated twice, bytes beside parameters, direction and batch.

    Attributes:
        graph: what the first gradient leaves for the second: its graph and itself.
        peak: of both, products included.
    """

    graph: int
    peak: int


@dataclass(frozen=True)
class FullGraph:
    """One graph over all inner steps, bytes beside parameters and batches: T steps peak at `one + (T - 1) * further`."""

    one: int
    further: int


@dataclass(frozen=True)
class TowerPass:
    """A chunk of images through a frozen tower and back to their pixels, bytes beside parameters and images.

    Attributes:
        graph: what the forward pass leaves for the backward pass, features included.
        peak: of both, the images' gradients included.
        without_graph: the forward pass alone.
    """

    graph: int
    peak: int
    without_graph: int


NOTHING: frozenset[str] = frozenset()


def _once(
    rehearse: "Callable[Concatenate[MemoryTrace, Asked], Found]",
) -> "Callable[Concatenate[MemoryTrace, Asked], Found]":
    """A trace asked for again is remembered."""

    @wraps(rehearse)
    def remembered(self: "MemoryTrace", *args: Asked.args, **kwargs: Asked.kwargs) -> Found:
        key = (rehearse.__name__, args, tuple(sorted(kwargs.items())))
        if key not in self.known:
            self.known[key] = rehearse(self, *args, **kwargs)
        return self.known[key]

    return remembered


class MemoryTrace:
    """What the passes of one dual encoder take.

    Args:
        text_dim: size of the caption embeddings.
        image_size: pixels.

    Attributes:
        parameters, trainable: how many.
        trainable_bytes: P, by tower.
        frozen_bytes: F.
        module_bytes: the largest module's own parameters.
        block_bytes, outside_bytes: the largest of the model's blocks, and what is in none of them.
        has_features: of the settings; here the weights are random, and never loaded.
    """

    def __init__(self, settings: ModelSettings, text_dim: int, image_size: int) -> None:
        self.has_features = settings.has_features
        image = settings.image.model_copy(update={"weights": "random"})
        self.settings = settings.model_copy(update={"image": image})
        self.text_dim, self.image_size = text_dim, image_size
        self.known: dict[Any, Any] = {}
        model = self.model()
        own = [sum(p.nbytes for p in module.parameters(recurse=False)) for module in model.modules()]
        self.module_bytes = max(own)
        blocks = [sum(p.nbytes for p in block.parameters()) for block in blocks_of(model)]
        self.block_bytes, self.outside_bytes = max(blocks, default=0), sum(own) - sum(blocks)
        self.parameters = sum(p.numel() for p in model.parameters())
        view = ParameterView(model)
        self.trainable = view.count
        self.trainable_bytes = {tower: sum(p.nbytes for p in view.parameters_of(tower)) for tower in TOWERS}
        self.frozen_bytes = sum(p.nbytes for p in model.parameters()) - sum(self.trainable_bytes.values())
        self.frozen_backbone = model.frozen_backbone

    @cached_property
    def pair_bytes(self) -> int:
        """A synthetic pair: its pixels, its text, and what the loss adds. Of a full similarity that is one column: the others
        are M numbers, beside which an image is large."""
        return self.learned_bytes(NOTHING)

    def learned_bytes(self, fixed: frozenset[str]) -> int:
        """Of a synthetic pair what moves."""
        sizes = {"images": 4 * 3 * self.image_size**2, "texts": 4 * self.text_dim}
        sizes |= {name: one.start.nbytes for name, one in self._rows(1).items()}
        return sum(size for name, size in sizes.items() if name not in fixed)

    @cached_property
    def input_bytes(self) -> int:
        """A pair as the students get it: the same, or the frozen backbone's features and the text."""
        return self.learned_input_bytes(NOTHING)

    def learned_input_bytes(self, fixed: frozenset[str]) -> int:
        """Of that what moves."""
        return sum(tensor.nbytes for name, tensor in self._batch(self.model(), 1).items() if name not in fixed)

    @_once
    def first_order(
        self,
        pairs: int,
        *,
        training: bool,
        of_batch: bool,
        keep: bool,
        fixed: frozenset[str] = NOTHING,
        blend: Blend | None = None,
    ) -> int:
        """A forward and backward pass with fused attention: the peak, bytes beside parameters and batch.

        Args:
            training: with dropout.
            of_batch: with the batch's gradient.
            keep: the parameters' gradients; else each is gone as soon as it is made, as when it goes to another rank.
            fixed: of a pair's tensors what has no gradient, beside what the loss itself keeps fixed.
            blend: of the features; none: they are not mixed.
        """
        student, theta, batch = self.student(pairs, dropout=training, fused=True, fixed=fixed, blend=blend)
        with fused_attention_on_meta(), LiveMemory() as memory:
            at, on = _leaves(theta, True), _leaves(batch, of_batch)
            for leaf in [] if keep else at:
                leaf.register_post_accumulate_grad_hook(_drop_gradient)
            student.loss(at, on, 0).backward()
        return memory.peak

    @_once
    def second_order(
        self, pairs: int, *, dropout: bool, with_theta: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> SecondOrder:
        """`DoubleBackward` of one step. `with_theta`: with the products along theta."""
        student, theta, batch = self.student(pairs, dropout=dropout, fused=False, fixed=fixed, blend=blend)
        direction = [torch.empty_like(tensor) for tensor in theta]
        with LiveMemory() as memory:
            derivatives = DoubleBackward(student)
            first = derivatives.gradient(theta, batch, 0, last=True)
            graph = memory.live
            derivatives.products(theta, batch, 0, direction, first, with_theta=with_theta)
        return SecondOrder(graph, memory.peak)

    @_once
    def full_graph(
        self, pairs: int, *, dropout: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> FullGraph:
        """`full_gradient` of one and of two steps."""
        peaks = []
        for steps in (1, 2):
            student, theta, batch = self.student(pairs, dropout=dropout, fused=False, fixed=fixed, blend=blend)
            target = [torch.empty_like(tensor) for tensor in theta]

            def outer(end: Params, target: Params = target) -> Tensor:
                return torch.stack([(a - b).square().sum() for a, b in zip(end, target, strict=True)]).sum()

            with LiveMemory() as memory:
                full_gradient(student, theta, torch.empty(2, device=META), [batch] * steps, outer)
            peaks.append(memory.peak)
        return FullGraph(peaks[0], peaks[1] - peaks[0])

    @_once
    def encoding(self, count: int) -> int:
        """Features of 8-bit images without a graph: the peak, bytes beside parameters."""
        model = self.model()
        with torch.no_grad(), fused_attention_on_meta(), LiveMemory() as memory:
            images = torch.empty(count, 3, self.image_size, self.image_size, device=META, dtype=torch.uint8)
            model.image_features(model_inputs(model, model.normalise(images)))
        return memory.peak

    @_once
    def tower(self, images: int) -> TowerPass:
        """The image tower as a frozen one, on a chunk of images."""
        tower, chunk = FrozenTower(self.model().image_backbone), self._images(images)
        with fused_attention_on_meta():
            graph = tower.chunk_with_graph(chunk).graph_bytes
            with LiveMemory() as memory:
                passed = tower.chunk_with_graph(chunk)
                passed.pixel_gradients(torch.empty_like(passed.features))
            with LiveMemory() as forward:
                tower.features(chunk)
        return TowerPass(graph, memory.peak, forward.peak)

    @cached_property
    def tower_bytes(self) -> int:
        """What a frozen tower has beside the model's parameters."""
        return FrozenTower(self.model().image_backbone).own_bytes

    def model(self) -> DualEncoder:
        with META:
            return build(self.settings, self.text_dim, None, 0)

    def _images(self, pairs: int) -> Tensor:
        return torch.empty(pairs, 3, self.image_size, self.image_size, device=META)

    def _batch(self, model: DualEncoder, pairs: int) -> dict[str, Tensor]:
        inputs = model_inputs(model, self._images(min(pairs, CHUNK)))
        batch = {"images": inputs.new_empty(pairs, *inputs.shape[1:]), "texts": torch.empty(pairs, self.text_dim, device=META)}
        return batch | {name: one.start.to(META) for name, one in self._rows(pairs).items()}

    def _rows(self, pairs: int) -> dict[str, Learned]:
        """What the loss adds to a batch."""
        loss: Loss = self.settings.loss
        return loss.learned_rows(range(pairs), pairs)

    def student(
        self, pairs: int, *, dropout: bool, fused: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> tuple[Student, list[Tensor], list[Tensor]]:
        """A student, its parameters, and what is learned of a batch; what is not is the same in both of two steps."""
        model = self.model()
        student = Student(model, self.settings.loss, dropout=dropout, fused_attention=fused)
        student.blend = blend
        fixed |= {name for name, one in self._rows(pairs).items() if one.lr == 0}
        batch = self._batch(model, pairs)
        places = frozenset(place for place, name in enumerate(batch) if name in fixed)
        learned, others = without_fixed(list(batch.values()), places)
        student.fixed = [others, others] if others else ()
        shared = [one.start.to(META) for one in self.settings.loss.learned_shared().values()]
        return student, [parameter.detach() for parameter in student.view.parameters], [*learned, *shared]


def _leaves(tensors: Sequence[Tensor], requires_grad: bool) -> list[Tensor]:
    return [tensor.detach().requires_grad_(requires_grad) for tensor in tensors]


def _drop_gradient(leaf: Tensor) -> None:
    leaf.grad = None


# (dual encoder, image size in pixels) -> its trace; the same trace for the same question.
TraceOf = Callable[[ModelSettings, int], MemoryTrace]
