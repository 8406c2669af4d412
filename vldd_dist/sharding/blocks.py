"""A network's blocks: the modules that FSDP gathers one by one."""

from collections.abc import Iterator

from torch import nn

# Elements. A block's parameters travel in one collective, and of fewer the latency is all of its cost.
SMALLEST_BLOCK = 1 << 14

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The members of the network's lists of modules, as timm builds towers of them (`blocks`, `stages`, `layer1` ...); of a
    member most of which is lists again, such as a stage, the members of those. No block contains another.

    Modules inside a block stay together, because some networks use the weights of a module without calling it.
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
    """Elements of all parameters below lists of modules."""
    return sum(_elements(child) if isinstance(child, _LISTS) else _in_lists(child) for child in module.children())


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
