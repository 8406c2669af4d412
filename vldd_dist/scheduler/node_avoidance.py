"""The nodes on which units should not run again."""

from collections import defaultdict

from vldd_dist.pipeline.work_unit import NO_NODES, AvoidedNodes

# The largest number of nodes that a unit strictly avoids: after an outage of the store it may have failed on every node.
MAX_AVOIDED = 3


class NodeAvoidance:
    """For each unit the latest nodes on which its attempts were broken, and the last one on which one was killed or slow."""

    def __init__(self) -> None:
        self._nodes: dict[str, AvoidedNodes] = {}
        # Unit id -> those of its strictly avoided nodes on which it only could not reach the store or a source.
        self._outages: dict[str, set[str]] = defaultdict(set)

    def of(self, unit_id: str) -> AvoidedNodes:
        return self._nodes.get(unit_id, NO_NODES)

    def broken_on(self, unit_id: str, node: str) -> None:
        """Never run the unit on this node again while there are others. A broken machine, which ends units at once, is always
        free: it would get the unit again and again while the others work."""
        self._outages[unit_id].discard(node)
        self._avoid_strictly(unit_id, node)

    def outage_on(self, unit_id: str, node: str) -> None:
        """The same until `relax`: an outage meets all machines, and this one may be as good as the others."""
        if node not in self.of(unit_id).strictly:
            self._outages[unit_id].add(node)
        self._avoid_strictly(unit_id, node)

    def relax(self, unit_id: str) -> bool:
        """Let the unit run again where it only could not reach the store; the latest of these nodes only if others are busy,
        unless it was killed or slow on another one. Returns whether there are any."""
        avoid, outages = self.of(unit_id), self._outages.pop(unit_id, set())
        relaxed = [node for node in avoid.strictly if node in outages]
        if relaxed:
            strictly = tuple(node for node in avoid.strictly if node not in outages)
            self._nodes[unit_id] = AvoidedNodes(strictly, avoid.preferably or relaxed[-1])
        return bool(relaxed)

    def _avoid_strictly(self, unit_id: str, node: str) -> None:
        avoid = self.of(unit_id)
        others = (other for other in avoid.strictly if other != node)
        self._nodes[unit_id] = avoid._replace(strictly=(*others, node)[-MAX_AVOIDED:])

    def killed_or_slow_on(self, unit_id: str, node: str) -> None:
        """Prefer other nodes: the unit may succeed where it was, once other units there have ended."""
        self._nodes[unit_id] = self.of(unit_id)._replace(preferably=node)
