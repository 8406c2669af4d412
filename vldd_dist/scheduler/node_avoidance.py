"""The nodes on which units should not run again."""

from vldd_dist.pipeline.work_unit import NO_NODES, AvoidedNodes

# The largest number of nodes that a unit strictly avoids: after an outage of the store it may have failed on every node.
MAX_AVOIDED = 3


class NodeAvoidance:
    """For each unit the latest nodes on which its attempts were broken, and the last one on which one was killed or slow."""

    def __init__(self) -> None:
        self._nodes: dict[str, AvoidedNodes] = {}

    def of(self, unit_id: str) -> AvoidedNodes:
        return self._nodes.get(unit_id, NO_NODES)

    def broken_on(self, unit_id: str, node: str) -> None:
        """Never run the unit on this node again while there are others. A broken machine, which ends units at once, is always
        free: it would get the unit again and again while the others work."""
        avoid = self.of(unit_id)
        others = (other for other in avoid.strictly if other != node)
        self._nodes[unit_id] = avoid._replace(strictly=(*others, node)[-MAX_AVOIDED:])

    def killed_or_slow_on(self, unit_id: str, node: str) -> None:
        """Prefer other nodes: the unit may succeed where it was, once other units there have ended."""
        self._nodes[unit_id] = self.of(unit_id)._replace(preferably=node)
