"""timm and transformers, imported on first use: they take seconds, which a process without models does not need."""

import gc
import importlib
import sys
from functools import cache
from types import ModuleType

import torch


@cache
def timm() -> ModuleType:
    """The module timm."""
    import_torchvision()
    # timm imports wandb, where it is installed, for training scripts of its own. That takes most of a second.
    hide = "wandb" not in sys.modules
    if hide:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        return _import("timm")
    finally:
        if hide:
            del sys.modules["wandb"]


@cache
def transformers() -> ModuleType:
    """The module transformers."""
    import_torchvision()
    return _import("transformers")


def _import(name: str) -> ModuleType:
    """Import without garbage collection, which would take a fifth of the time and find nothing: modules stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if enabled:
            gc.enable()


def import_torchvision() -> None:
    """Make torchvision importable beside a CPU-only torch.

    timm, transformers and peft import torchvision. Its compiled operators need the CUDA build of torch, and without them its
    Python code fails on unknown operators. None of them is used here, so it is enough to declare their schemas.
    """
    try:
        _import("torchvision")
    except RuntimeError:
        if torch.version.cuda is not None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        _import("torchvision")


@cache
def _declare_operators() -> torch.library.Library:
    # Cached, because the schemas are removed when the library object is.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
