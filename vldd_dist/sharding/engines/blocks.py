"""Finds a network's blocks: the modules whose parameters FSDP gathers one after the other."""

from collections.abc import Iterator

from torch import nn

# In elements. Each block costs one collective, and a collective of fewer elements costs nothing but its latency.
SMALLEST_BLOCK = 1 << 14

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The members of the network's lists of modules, such as timm's `blocks`, `stages` and `layer1`. A member that consists
    mostly of lists itself, such as a stage, is replaced by the members of these lists. No block contains another.

    Modules inside a block are not separated, because some networks use the weights of a module without calling it.
    """
    return list(_blocks(model, is_member=False))


def _blocks(module: nn.Module, *, is_member: bool) -> Iterator[nn.Module]:
    if isinstance(module, _LISTS):
        for member in module.children():
            yield from _blocks(member, is_member=True)
    elif is_member and 2 * _in_lists(module) <= _elements(module) >= SMALLEST_BLOCK:
        yield module
    else:
        for child in module.children():
            yield from _blocks(child, is_member=False)


def _in_lists(module: nn.Module) -> int:
    """The number of parameter elements inside lists of modules."""
    return sum(_elements(child) if isinstance(child, _LISTS) else _in_lists(child) for child in module.children())


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
