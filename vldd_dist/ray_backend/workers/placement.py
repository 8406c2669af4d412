"""On which nodes Ray may run a unit that failed or was slow on others."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.scheduler.executor import NodeSize


def labels_without(nodes: Iterable[str]) -> dict[str, str]:
    """The label selector of all nodes but these."""
    listed = ",".join(sorted(set(nodes)))
    return {"ray.io/node-id": f"!in({listed})"} if listed else {}


def placement_options(order: UnitOrder) -> dict[str, Any]:
    """Ray's options for a task or an actor that keeps away from the nodes of `order.avoid`."""
    strictly, preferably = order.avoid
    required = labels_without(strictly)
    if preferably is None:
        return {"label_selector": required} if required else {}
    # Ray uses the fallback as soon as no other node is free.
    return {"label_selector": labels_without([*strictly, preferably]), "fallback_strategy": [{"label_selector": required}]}


def with_room_elsewhere(order: UnitOrder, nodes: Callable[[], Mapping[str, NodeSize]]) -> UnitOrder:
    """The order, of whose strictly avoided nodes only the latest remain, as many as leave room for it on the others now.

    Args:
        nodes: returns the living nodes; called only for an order that avoids some.
    """
    strictly = order.avoid.strictly
    while strictly and not _room_without(strictly, order, nodes()):
        strictly = strictly[1:]
    return replace(order, avoid=order.avoid._replace(strictly=strictly))


def _room_without(avoided: tuple[str, ...], order: UnitOrder, nodes: Mapping[str, NodeSize]) -> bool:
    """Whether the nodes without the avoided ones could hold all workers of the unit, if nothing else ran on them."""
    room = 0
    for node, has in nodes.items():
        if node not in avoided:
            asked = ((has.cpus, order.worker_cpus), (has.gpus, order.worker_gpus))
            # Ray adds up fractions in multiples of 1/10,000.
            room += min(int(round(amount / wanted, 4)) for amount, wanted in asked if wanted)
    return room >= order.workers
