"""Makes torchvision importable beside a CPU-only torch.

timm, transformers and peft import torchvision. Its compiled operators need the CUDA build of torch, and without them its
Python code fails on unknown operators. None of them is used here, so it is enough to declare their schemas.
"""

import importlib
import sys

import torch

_library: torch.library.Library | None = None


def _ensure_importable() -> None:
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if torch.version.cuda is not None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        # Kept in a global: the schemas are removed when the library object is.
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_ensure_importable()
