"""Lets torchvision be imported beside a CPU-only torch.

timm, transformers and peft import torchvision; its compiled operators cannot load without the CUDA build of torch, and
its Python side then fails on operators it cannot find. None of them is used here: declaring their schemas is enough.
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
        # Kept alive: the schemas go with the library.
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_ensure_importable()
