"""Which units wait for which inputs. A unit that ends costs time by the number of its users, not by the size of the graph."""

from collections import defaultdict
from collections.abc import Collection


class Dependencies:
    """Units by id.

    Args:
        committed: units that an earlier run committed.
    """

    def __init__(self, committed: Collection[str] = ()) -> None:
        self._committed = set(committed)
        # Failed, or blocked by a failed one: will never be committed in this run.
        self._failed: set[str] = set()
        # Waiting unit -> number of inputs it still lacks; input -> units that wait for it.
        self._lacking: dict[str, int] = {}
        self._users: dict[str, list[str]] = defaultdict(list)

    def add(self, unit_id: str, inputs: Collection[str]) -> bool:
        """Let a unit wait for those of the inputs that are not committed. Returns whether it is ready, since all are."""
        missing = set(inputs) - self._committed
        if missing:
            self._lacking[unit_id] = len(missing)
            for input_id in missing:
                self._users[input_id].append(unit_id)
        return not missing

    def commit(self, unit_id: str) -> list[str]:
        """A unit is committed: returns the units that are ready now."""
        self._committed.add(unit_id)
        ready = []
        for user_id in self._users.pop(unit_id, ()):
            # Not among them: blocked by another input.
            if user_id in self._lacking:
                self._lacking[user_id] -= 1
                if not self._lacking[user_id]:
                    del self._lacking[user_id]
                    ready.append(user_id)
        return ready

    def fail(self, unit_id: str) -> list[str]:
        """A unit will never be committed: returns the waiting units that need it, directly or through others."""
        self._failed.add(unit_id)
        blocked: list[str] = []
        pending = [unit_id]
        while pending:
            for user_id in self._users.pop(pending.pop(), ()):
                if self._lacking.pop(user_id, None) is not None:
                    blocked.append(user_id)
                    pending.append(user_id)
        self._failed.update(blocked)
        return blocked

    def has_failed(self, unit_id: str) -> bool:
        """Whether it failed, or is blocked by one that did."""
        return unit_id in self._failed
