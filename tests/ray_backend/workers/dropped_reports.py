"""A queue for the reports of a unit that drops them."""

from types import SimpleNamespace
from typing import Any


class Reports:
    """In place of the queue's actor: drops the reports."""

    actor: Any = SimpleNamespace(put_nowait=SimpleNamespace(remote=lambda message: None))
