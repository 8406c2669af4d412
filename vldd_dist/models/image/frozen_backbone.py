"""Frozen image backbones: features, and a vector-Jacobian product from features to pixels.

If the backbone is frozen, an image's features are always the same. Then a student's training computes them once, the unroll
runs on features, and its gradient is propagated to the pixels once, at the end of an outer step.
"""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vldd_dist.models.image.batch_norm_folding import fold_batch_norms
from vldd_dist.models.image.channels_last import gains_from_channels_last
from vldd_dist.models.live_memory import LiveMemory

# Most images of a chunk. The activations of one chunk are in memory at once, and its graph is kept or dropped as a whole.
CHUNK = 32


def chunks_of(images: int) -> int:
    """The number of chunks that this many images are split into. Their sizes differ by at most one."""
    return max(math.ceil(images / CHUNK), 1)


def largest_chunk(images: int) -> int:
    """The number of images in the largest chunk of this many images."""
    return math.ceil(images / chunks_of(images))


def kept_chunks(chunks: int, graph_bytes: int, limit: int) -> int:
    """The number of chunks that keep their graph until the backward pass.

    Args:
        graph_bytes: bytes of the graph of one chunk.
        limit: bytes that all kept graphs may take together.
    """
    return min(chunks, limit // max(graph_bytes, 1))


class FrozenBackbone:
    """A fast copy of a frozen backbone: batch norms are folded into convolutions, and images are in channels-last layout where
    that is faster. Features and gradients are those of the backbone up to rounding.

    The backbone is not changed. Tensors that folding does not replace are shared with it, so its weights must not change
    while the copy is in use. With several ranks each has the whole copy, so it must be made before the backbone is sharded.

    Args:
        backbone: (B, 3, H, W) -> (B, F).
        bf16: run it in bfloat16.
        moves: whether the backbone's weights may change in place between uses of the copy, which then has the changed weights,
            and in which nothing is folded.

    Attributes:
        own_bytes: bytes of the parameters that are not shared with the backbone.
    """

    def __init__(self, backbone: nn.Module, *, bf16: bool = False, moves: bool = False) -> None:
        # New Parameter objects on the same memory, because sharding the backbone replaces the contents of its own ones.
        tensors: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in backbone.parameters()}
        tensors |= {id(buffer): buffer for buffer in backbone.buffers()}
        self.backbone, self.bf16 = copy.deepcopy(backbone, tensors).eval(), bf16
        shared = set(self.backbone.parameters())
        if not moves:
            fold_batch_norms(self.backbone)
        self.own_bytes = sum(parameter.nbytes for parameter in self.backbone.parameters() if parameter not in shared)
        # Shape of an image -> whether its layout is changed.
        self._channels_last: dict[torch.Size, bool] = {}
        # Shape of a chunk -> bytes of its graph.
        self._graph_bytes: dict[torch.Size, int] = {}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(M, F) features of normalised images (M, 3, H, W), without a graph."""
        return torch.cat([self._run(chunk) for chunk in images.tensor_split(chunks_of(len(images)))])

    def features_with_graph(self, images: Tensor, limit: int) -> "FeaturesWithGraph":
        """Features (M, F) of normalised images (M, 3, H, W), whose gradients can be propagated to the pixels.

        Args:
            limit: bytes of graphs to keep. Images whose graph is not kept pass through the backbone again for the backward
                pass.
        """
        return FeaturesWithGraph(self, images, limit)

    def chunk_with_graph(self, chunk: Tensor) -> "ChunkWithGraph":
        """The features, with their graph, of one chunk of images (B, 3, H, W)."""
        leaf = chunk.detach().requires_grad_()
        graph_bytes = self._graph_bytes.get(chunk.shape)
        if graph_bytes is not None:
            with torch.enable_grad():
                return ChunkWithGraph(self._run(leaf), leaf, graph_bytes)
        # Decide on the layout first, so that the pass which decides is not measured.
        self._in_channels_last(chunk)
        with torch.enable_grad(), LiveMemory() as memory:
            features = self._run(leaf)
        self._graph_bytes[chunk.shape] = memory.live
        return ChunkWithGraph(features, leaf, memory.live)

    def _run(self, images: Tensor) -> Tensor:
        if self._in_channels_last(images):
            images = images.contiguous(memory_format=torch.channels_last)
        with self._precision(images.device):
            return self.backbone(images).to(images.dtype)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _in_channels_last(self, images: Tensor) -> bool:
        shape = images.shape[1:]
        if shape not in self._channels_last:
            self._channels_last[shape] = gains_from_channels_last(self.backbone, images)
        return self._channels_last[shape]


class ChunkWithGraph(NamedTuple):
    """The features of a chunk of images, with their graph.

    Attributes:
        features: (B, F), with their graph.
        leaf: (B, 3, H, W), the images, which are the leaf of the graph.
        graph_bytes: bytes of the graph and the features.
    """

    features: Tensor
    leaf: Tensor
    graph_bytes: int

    def pixel_gradients(self, gradients: Tensor) -> Tensor:
        """The gradients of the images, from those of the features (B, F). Frees the graph."""
        return torch.autograd.grad(self.features, self.leaf, gradients)[0]


class FeaturesWithGraph:
    """Features whose gradients can be propagated to the pixels, once.

    Attributes:
        features: (M, F), detached.
        kept: the first chunks, this many, have kept their graph.
    """

    def __init__(self, backbone: FrozenBackbone, images: Tensor, limit: int) -> None:
        self._backbone, self._images = backbone, images.detach()
        self._graphs: list[ChunkWithGraph] = []
        first, *others = self._images.tensor_split(chunks_of(len(images)))
        # The first chunk is a largest one, so the graphs of the others take no more memory than its graph.
        self._graphs = [backbone.chunk_with_graph(first)]
        features = [self._graphs[0].features.detach()]
        self.kept = kept_chunks(1 + len(others), self._graphs[0].graph_bytes, limit)
        if self.kept == 0:
            self._graphs.clear()
        for chunk in others:
            if len(features) < self.kept:
                self._graphs.append(backbone.chunk_with_graph(chunk))
                features.append(self._graphs[-1].features.detach())
            else:
                features.append(backbone.features(chunk))
        self.features = torch.cat(features)

    def pixel_gradients(self, gradients: Tensor) -> Tensor:
        """The gradients of the images (M, 3, H, W), from those of the features (M, F)."""
        # Contiguous, even if the backbone works in channels-last layout.
        result = torch.empty_like(self._images, memory_format=torch.contiguous_format)
        chunks = chunks_of(len(result))
        parts = (tensor.tensor_split(chunks) for tensor in (self._images, gradients, result))
        for images, gradient, pixels in zip(*parts, strict=True):
            chunk = self._graphs.pop(0) if self._graphs else self._backbone.chunk_with_graph(images)
            pixels.copy_(chunk.pixel_gradients(gradient))
        return result
