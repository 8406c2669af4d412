"""Which units wait for which inputs. Handling the end of a unit takes time proportional to the number of units that use it,
not to the size of the graph."""

from collections import defaultdict
from collections.abc import Collection


class Dependencies:
    """Units by id.

    Args:
        committed: units that an earlier run committed.
    """

    def __init__(self, committed: Collection[str] = ()) -> None:
        self._committed = set(committed)
        # Units that failed or are blocked by a failed unit: they will not be committed in this run.
        self._failed: set[str] = set()
        # Waiting unit -> number of inputs that are not committed yet.
        self._lacking: dict[str, int] = {}
        # Input -> units that wait for it.
        self._users: dict[str, list[str]] = defaultdict(list)

    def add(self, unit_id: str, inputs: Collection[str]) -> bool:
        """Make a unit wait for those of its inputs that are not committed. Returns whether it is ready: all are committed."""
        missing = set(inputs) - self._committed
        if missing:
            self._lacking[unit_id] = len(missing)
            for input_id in missing:
                self._users[input_id].append(unit_id)
        return not missing

    def commit(self, unit_id: str) -> list[str]:
        """Record that a unit is committed. Returns the units that became ready."""
        self._committed.add(unit_id)
        ready = []
        for user_id in self._users.pop(unit_id, ()):
            # A unit that another failed input blocks is no longer waiting.
            if user_id in self._lacking:
                self._lacking[user_id] -= 1
                if not self._lacking[user_id]:
                    del self._lacking[user_id]
                    ready.append(user_id)
        return ready

    def fail(self, unit_id: str) -> list[str]:
        """Record that a unit will not be committed. Returns the waiting units that need it, directly or through others."""
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
        """Whether the unit failed or is blocked by a unit that failed."""
        return unit_id in self._failed
