"""On which nodes Ray may run a unit that failed or was slow on others."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import ray

from vldd_dist.pipeline.work_unit import UnitOrder


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


def with_room_elsewhere(order: UnitOrder) -> UnitOrder:
    """The order, of whose strictly avoided nodes only the latest remain, as many as leave room for it on the others now."""
    strictly = order.avoid.strictly
    while strictly and not _room_without(strictly, order):
        strictly = strictly[1:]
    return replace(order, avoid=order.avoid._replace(strictly=strictly))


def _room_without(nodes: tuple[str, ...], order: UnitOrder) -> bool:
    """Whether the living nodes without these could hold all workers of the unit, if nothing else ran on them."""
    room = 0
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in nodes:
            asked = (("CPU", order.cpus), ("GPU", order.gpus))
            # Ray adds up fractions in multiples of 1/10,000.
            room += min(int(round(node["Resources"].get(name, 0) / amount, 4)) for name, amount in asked if amount)
    return room >= order.workers
