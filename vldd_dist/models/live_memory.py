"""Measures the current and the peak memory of tensors, by counting the storages that operations create.

It needs no allocator: a pass over tensors on the "meta" device, which have shapes but no memory, gives the peak that the same
pass has on a GPU. Memory that a kernel allocates and frees internally (a convolution's workspace) is not counted.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operations create while the mode is active; storages that existed before are not counted.

    Attributes:
        live: bytes of the storages that are not freed yet.
        peak: the maximum of `live`, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        # Addresses of the storages seen so far and not freed. An address may be reused after its storage is freed.
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._note(value, counted=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value, counted=True)
        self.peak = max(self.peak, self.live)
        return result

    def _note(self, tensor: Tensor, *, counted: bool) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        self._known.add(address)
        size = storage.nbytes() if counted else 0
        self.live += size
        # Torch keeps a storage's Python object alive as long as the storage.
        weakref.finalize(storage, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


@contextlib.contextmanager
def fused_attention_on_meta() -> Iterator[None]:
    """Within the `with` block, attention on "meta" keeps what a fused kernel keeps on a GPU or CPU, and not the (N, N) scores.

    It replaces torch's function in this process. A torch function mode would not work, because it is inactive while gradient
    checkpointing recomputes activations.
    """
    original = functional.scaled_dot_product_attention

    def fused(*args: Any, **kwargs: Any) -> Tensor:
        named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        if named.pop("enable_gqa", False):
            return original(*args, **kwargs)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(**named)[0]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
