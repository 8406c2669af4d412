"""Measures the memory of a student's passes by running the same code on the meta device, so that a plan can say what is needed.

Nothing is downloaded, and nothing large is allocated. Tracing both passes of an inner step of a ViT-H takes two seconds.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.student.blending import Blend
from vldd_dist.distillation.student.student import StepInputs, Student, without_fixed
from vldd_dist.distillation.unroll import DoubleBackward, Tensors, Unroll, full_gradient
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.frozen_backbone import CHUNK, FrozenBackbone, largest_chunk
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.live_memory import LiveMemory, fused_attention_on_meta
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.losses.base import row_bytes
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.sharding.engines.blocks import blocks_of

META = torch.device("meta")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SecondOrder:
    """Memory of one inner step that is differentiated twice, in bytes, without parameters, direction and batch.

    Attributes:
        graph: what the first gradient keeps for the second: its graph and the gradient itself.
        peak: the peak over both, including the products.
    """

    graph: int
    peak: int


@dataclass(frozen=True)
class FullGraph:
    """Memory of one graph over all inner steps, in bytes, without parameters and batches.

    Attributes:
        one: the peak of one step.
        further: what each further step adds to it.
    """

    one: int
    further: int

    def of_steps(self, steps: int) -> int:
        """The peak of this many steps."""
        return self.one + (steps - 1) * self.further


@dataclass(frozen=True)
class BackbonePass:
    """Memory of a chunk of images that passes a frozen backbone and back to its pixels, in bytes, without parameters and
    images.

    Attributes:
        graph: what the forward pass keeps for the backward pass, including the features.
        peak: the peak over both passes, including the images' gradients.
        without_graph: the peak of the forward pass alone, without a graph.
    """

    graph: int
    peak: int
    without_graph: int


NOTHING: frozenset[str] = frozenset()


def _cached(
    method: "Callable[Concatenate[MemoryTrace, Arguments], Result]",
) -> "Callable[Concatenate[MemoryTrace, Arguments], Result]":
    """Compute the result of a method once for each of its arguments (`MemoryTrace.once`)."""

    @wraps(method)
    def cached(self: "MemoryTrace", *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        key = (method.__name__, args, tuple(sorted(kwargs.items())))
        return self.once(key, lambda: method(self, *args, **kwargs))

    return cached


class MemoryTrace:
    """The memory of the passes of one dual encoder. In a traced pass a full similarity has the columns of the batch only: the
    others are small compared with what a pass keeps.

    Args:
        text_dim: size of the caption embeddings.
        image_size: width and height in pixels.

    Attributes:
        parameters, trainable: numbers of parameters.
        trainable_bytes: tower -> bytes of its trainable parameters; their sum is P.
        frozen_bytes: F, bytes of the frozen parameters.
        joint_dim: size of the joint features.
        module_bytes: bytes of the largest module's own parameters.
        block_bytes, outside_bytes: bytes of the largest of the model's blocks, and of the parameters outside all blocks.
        has_features: as in the settings. The traced model has random weights; none are loaded.
    """

    def __init__(self, settings: ModelSettings, text_dim: int, image_size: int) -> None:
        self.has_features = settings.has_features
        image = settings.image.model_copy(update={"weights": "random"})
        self.settings = settings.model_copy(update={"image": image})
        self.text_dim, self.image_size = text_dim, image_size
        self._known: dict[Hashable, Any] = {}
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
        self.freezes_backbone, self.joint_dim = model.freezes_backbone, model.joint_dim

    @property
    def real_bytes(self) -> int:
        """Bytes of a real pair: its pixels and its text."""
        return self._image_bytes + self._text_bytes

    def pair_bytes(self, total: int, fixed: frozenset[str] = NOTHING) -> int:
        """Bytes of a synthetic pair of a set of M = `total` pairs: its pixels, its text, and what the loss adds, without the
        tensors named in `fixed`."""
        return self._bytes_without(fixed, self._image_bytes, total)

    @cached_property
    def image_input_bytes(self) -> int:
        """Bytes of an image as students get it: its pixels or, for a frozen backbone, its features."""
        return self._batch(self.model(), 1)["images"].nbytes

    @property
    def real_input_bytes(self) -> int:
        """Bytes of a real pair as students get it."""
        return self.image_input_bytes + self._text_bytes

    def input_bytes(self, total: int, fixed: frozenset[str] = NOTHING) -> int:
        """Bytes of a synthetic pair of M = `total` as students get it, without the tensors named in `fixed`."""
        return self._bytes_without(fixed, self.image_input_bytes, total)

    def _bytes_without(self, fixed: frozenset[str], of_image: int, total: int) -> int:
        # Without a row, because a full similarity of many pairs would not fit into memory.
        sizes = {"images": of_image, "texts": self._text_bytes, **row_bytes(self._rows(range(0), total))}
        return sum(size for name, size in sizes.items() if name not in fixed)

    @property
    def _image_bytes(self) -> int:
        return 4 * 3 * self.image_size**2

    @property
    def _text_bytes(self) -> int:
        return 4 * self.text_dim

    @_cached
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
        """The peak of a forward and backward pass with fused attention, in bytes, without parameters and batch.

        Args:
            training: whether dropout is on.
            of_batch: whether the gradient of the batch is computed.
            keep: whether the parameters' gradients are kept; otherwise each is freed as soon as it is computed, as if it were
                sent to another rank.
            fixed: names of a pair's tensors without a gradient, in addition to those that the loss keeps fixed.
            blend: how features are mixed; None: they are not.
        """
        student, theta, batch = self.student(pairs, dropout=training, fused=True, fixed=fixed, blend=blend)
        with fused_attention_on_meta(), LiveMemory() as memory:
            parameters, inputs = _leaves(theta, True), _leaves(batch, of_batch)
            if not keep:
                for leaf in parameters:
                    leaf.register_post_accumulate_grad_hook(_drop_gradient)
            student.loss(parameters, inputs, 0).backward()
        return memory.peak

    @_cached
    def second_order(
        self, pairs: int, *, dropout: bool, with_theta: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> SecondOrder:
        """The memory of `DoubleBackward` for one step.

        Args:
            with_theta: whether the product with respect to theta is computed too.
        """
        student, theta, batch = self.student(pairs, dropout=dropout, fused=False, fixed=fixed, blend=blend)
        direction = [torch.empty_like(tensor) for tensor in theta]
        with LiveMemory() as memory:
            derivatives = DoubleBackward(student)
            first = derivatives.gradient(theta, batch, 0, last=True)
            graph = memory.live
            derivatives.products(theta, batch, 0, direction, first, with_theta=with_theta)
        return SecondOrder(graph, memory.peak)

    @_cached
    def full_graph(
        self, pairs: int, *, dropout: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> FullGraph:
        """The memory of `full_gradient`, from traces of one and of two steps."""
        peaks = []
        for steps in (1, 2):
            student, theta, batch = self.student(pairs, dropout=dropout, fused=False, fixed=fixed, blend=blend)
            target = [torch.empty_like(tensor) for tensor in theta]

            def outer(end: Tensors, target: Tensors = target) -> Tensor:
                return torch.stack([(a - b).square().sum() for a, b in zip(end, target, strict=True)]).sum()

            with LiveMemory() as memory:
                full_gradient(Unroll(theta, torch.empty(2, device=META), [batch] * steps, outer, student.towers), student)
            peaks.append(memory.peak)
        return FullGraph(peaks[0], peaks[1] - peaks[0])

    @_cached
    def encoding(self, count: int) -> int:
        """The peak of encoding 8-bit images without a graph, in bytes, without parameters."""
        model = self.model()
        with torch.no_grad(), fused_attention_on_meta(), LiveMemory() as memory:
            images = torch.empty(count, 3, self.image_size, self.image_size, device=META, dtype=torch.uint8)
            model.image_features(model_inputs(model, model.normalise(images)))
        return memory.peak

    @_cached
    def backbone_pass(self, images: int, *, moves: bool = False) -> BackbonePass:
        """The memory of the image backbone as a `FrozenBackbone`, for a chunk of images; `moves` as there."""
        backbone, chunk = FrozenBackbone(self.model().image_backbone, moves=moves), self.images(images)
        with fused_attention_on_meta():
            graph = backbone.chunk_with_graph(chunk).graph_bytes
            with LiveMemory() as memory:
                passed = backbone.chunk_with_graph(chunk)
                passed.pixel_gradients(torch.empty_like(passed.features))
            with LiveMemory() as forward:
                backbone.features(chunk)
        return BackbonePass(graph, memory.peak, forward.peak)

    def inputs_of_pairs(self, pairs: int) -> int:
        """The peak of `model_inputs` of this many pairs, in bytes, without parameters and images. A frozen backbone takes
        chunks whose size no setting changes."""
        return (
            self.frozen_backbone_bytes + self.backbone_pass(largest_chunk(pairs)).without_graph if self.freezes_backbone else 0
        )

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The value of `make`, which is called once for each key. What others derive from this trace is kept here too."""
        if key not in self._known:
            self._known[key] = make()
        made: Result = self._known[key]
        return made

    @cached_property
    def frozen_backbone_bytes(self) -> int:
        """Bytes that a frozen backbone holds besides the model's parameters, unless these change between uses."""
        return FrozenBackbone(self.model().image_backbone).own_bytes

    def model(self) -> DualEncoder:
        """The dual encoder on the meta device, in evaluation mode. It is built once, because drawing initial weights takes long
        even on the meta device."""
        return self._model.eval()

    @cached_property
    def _model(self) -> DualEncoder:
        with META:
            return self._build()

    def _build(self) -> DualEncoder:
        return build(self.settings, self.text_dim, None, 0)

    def images(self, pairs: int) -> Tensor:
        """Normalised images (pairs, 3, H, W) on the meta device."""
        return torch.empty(pairs, 3, self.image_size, self.image_size, device=META)

    def _batch(self, model: DualEncoder, pairs: int) -> dict[str, Tensor]:
        inputs = model_inputs(model, self.images(min(pairs, CHUNK)))
        batch = {"images": inputs.new_empty(pairs, *inputs.shape[1:]), "texts": torch.empty(pairs, self.text_dim, device=META)}
        return batch | {name: one.start.to(META) for name, one in self._rows(range(pairs), pairs).items()}

    def _rows(self, numbers: range, total: int) -> dict[str, Learned]:
        """The rows that the loss adds to these pairs."""
        loss: Loss = self.settings.loss
        return loss.learned_rows(numbers, total)

    def student(
        self, pairs: int, *, dropout: bool, fused: bool, fixed: frozenset[str] = NOTHING, blend: Blend | None = None
    ) -> tuple[Student, list[Tensor], list[Tensor]]:
        """A student, its parameters, and the learned tensors of a batch. The student gets the fixed tensors, which are the same
        for both of two steps."""
        model, loss = self.model(), self.settings.loss
        student = Student(model, loss, dropout=dropout, fused_attention=fused)
        fixed |= {name for name, one in self._rows(range(pairs), pairs).items() if one.lr == 0}
        batch = self._batch(model, pairs)
        fixed_positions = frozenset(position for position, name in enumerate(batch) if name in fixed)
        learned, fixed_tensors = without_fixed(list(batch.values()), fixed_positions)
        step_inputs = StepInputs(fixed=[fixed_tensors, fixed_tensors] if fixed_tensors else (), blend=blend)
        shared = [one.start.to(META) for one in loss.learned_shared().values()]
        theta = [parameter.detach() for parameter in student.view.parameters]
        return student.with_inputs(step_inputs), theta, [*learned, *shared]


def _leaves(tensors: Sequence[Tensor], requires_grad: bool) -> list[Tensor]:
    return [tensor.detach().requires_grad_(requires_grad) for tensor in tensors]


def _drop_gradient(leaf: Tensor) -> None:
    leaf.grad = None


# (dual encoder, image size in pixels) -> its trace, which is made once for the same arguments.
TraceOf = Callable[[ModelSettings, int], MemoryTrace]
